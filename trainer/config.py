"""What is trained, on what, and how: frozen, with KOSMOS-1's numbers as defaults. P = the paper, arXiv 2302.14045.

`kosmos1()` is the paper's model, `text()` its language-only baseline; `tiny()` is the same architecture small enough
for two cores. Importing this loads no torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from engine.errors import ConfigError
from engine.vocab import Vocab

POSITIONS, INITS, FREEZING = ("xpos", "sinusoidal", "both"), ("torchscale", "xavier"), ("auto", "yes", "no")
DECAYED, PRECISIONS, ORDERS = ("all", "matrices"), ("float32", "bf16"), ("blocks", "rows")


def _one_of(name: str, **values: tuple[str, tuple[str, ...]]) -> None:
    for field_name, (value, allowed) in values.items():
        if value not in allowed:
            raise ConfigError(f"{name}.{field_name} is {value!r}; set it to {' or '.join(allowed)}")


def _positive(name: str, **values: float) -> None:
    for field_name, value in values.items():
        if not 0 < value < math.inf:
            raise ConfigError(f"{name}{'.' if name else ''}{field_name} is {value}; set it above 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class TowerConfig:
    """The image tower: a CLIP ViT. image_size, patch: pixels; width: of its tokens; layers, heads, ffn_dim: blocks."""

    image_size: int = 224
    patch: int = 14
    width: int = 1024
    layers: int = 24
    heads: int = 16
    ffn_dim: int = 4096

    def __post_init__(self) -> None:
        _positive("model.tower", **{name: getattr(self, name) for name in ("image_size", "patch", "width", "layers")})
        _positive("model.tower", heads=self.heads, ffn_dim=self.ffn_dim)
        if self.image_size % self.patch or self.width % self.heads:
            raise ConfigError(
                f"model.tower: image_size {self.image_size} must be a multiple of patch {self.patch}, "
                f"width {self.width} of heads {self.heads}"
            )

    @property
    def num_tokens(self) -> int:
        """Tokens that it makes of an image: the patches and the class token."""
        return (self.image_size // self.patch) ** 2 + 1


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """The decoder and the connector. vocab_size: 0 takes it from the manifest. max_length: positions; what is longer is
    refused. xpos_origin: the position at which the scales of xPos are 1; saved, independent of any cache.

    connector_heads: of the one attention layer that makes 64 vectors of an image's tokens. position: "xpos" is the
    paper's; the team's released code has "sinusoidal" instead, which Kosmos-2 weights need; or "both". init: of a
    Linear of the decoder: "torchscale", or "xavier", the Magneto paper's. images: False leaves tower and connector out:
    the paper's language-only baseline. freeze_tower: "yes" trains of the tower its last block and ln_post alone (P
    section 3.2), "no" all of it; "auto" freezes a tower whose weights were CLIP's, never random ones.
    """

    vocab_size: int = 64_007
    dim: int = 2048
    layers: int = 24
    heads: int = 32
    ffn_dim: int = 8192
    max_length: int = 2048
    dropout: float = 0.1
    attention_dropout: float = 0.1
    xpos_scale_base: int = 512
    xpos_origin: int = 1024
    layernorm_eps: float = 1e-5
    connector_heads: int = 32
    position: str = "xpos"
    init: str = "torchscale"
    images: bool = True
    freeze_tower: str = "auto"
    tower: TowerConfig = field(default_factory=TowerConfig)

    def __post_init__(self) -> None:
        sizes = ("dim", "layers", "heads", "ffn_dim", "max_length", "xpos_scale_base", "connector_heads")
        _positive("model", layernorm_eps=self.layernorm_eps, **{name: getattr(self, name) for name in sizes})
        if self.dim % self.heads or self.dim // self.heads % 2 or self.dim % self.connector_heads:
            raise ConfigError(
                f"model.dim {self.dim} must be a multiple of heads {self.heads} with an even quotient, and of "
                f"connector_heads {self.connector_heads}"
            )
        _one_of("model", position=(self.position, POSITIONS), init=(self.init, INITS))
        _one_of("model", freeze_tower=(self.freeze_tower, FREEZING))
        if not 0 <= self.dropout < 1 or not 0 <= self.attention_dropout < 1:
            raise ConfigError("model.dropout and model.attention_dropout are shares: set them to 0 or more, below 1")
        if self.vocab_size and self.vocab_size < Vocab(pieces=4).size:
            raise ConfigError(f"model.vocab_size is {self.vocab_size}; 0 takes it from the manifest")


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimConfig:
    """AdamW with a linear warm-up and a linear decay to 0 at `total_updates` (P section 3.2).

    clip_norm: bound of the gradient's global norm; the paper is silent, the team's scripts have 2.0. decay: what
    weight_decay is on: "all" parameters, as fairseq's Adam knows no exceptions, or "matrices", which leaves out biases,
    gains of norms and other vectors.
    """

    lr: float = 2e-4
    warmup_updates: int = 375
    total_updates: int = 300_000
    betas: tuple[float, ...] = (0.9, 0.98)
    eps: float = 1e-6
    weight_decay: float = 0.01
    decay: str = "all"
    clip_norm: float = 2.0

    def __post_init__(self) -> None:
        _positive("optim", lr=self.lr, total_updates=self.total_updates, eps=self.eps, clip_norm=self.clip_norm)
        _one_of("optim", decay=(self.decay, DECAYED))
        if not 0 <= self.weight_decay < math.inf:
            raise ConfigError(f"optim.weight_decay is {self.weight_decay}; set it to 0 or more")
        if not 0 <= self.warmup_updates < self.total_updates:
            raise ConfigError(
                f"optim.warmup_updates is {self.warmup_updates}; set it to 0 or more, below total_updates "
                f"{self.total_updates}"
            )
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError("optim.betas are two numbers from 0 to 1, as 0.9,0.98")

    def lr_at(self, update: int) -> float:
        """The learning rate of an update, counted from 1: 5.33e-7 at 1, 2e-4 at 375, 0 at 300,000."""
        if update < self.warmup_updates:
            return self.lr * update / self.warmup_updates
        left = (self.total_updates - update) / (self.total_updates - self.warmup_updates)
        return self.lr * max(0.0, left)


@dataclass(frozen=True, kw_only=True, slots=True)
class Quotas:
    """Rows of each stream in an update (P table 18: 256, 6,144, 128); 0 leaves a stream out."""

    text: int = 256
    caption: int = 6144
    interleaved: int = 128

    def __post_init__(self) -> None:
        if min(self.text, self.caption, self.interleaved) < 0 or not any((self.text, self.caption, self.interleaved)):
            raise ConfigError("data.quotas: set each to 0 or more, and one of them above 0")

    def of(self, stream: str) -> int:
        """The quota of a stream by its name."""
        return int(getattr(self, stream))


@dataclass(frozen=True, kw_only=True, slots=True)
class MicroBatch:
    """Rows of each stream that go through the model at once: memory, never the result."""

    text: int = 1
    caption: int = 6
    interleaved: int = 1

    def __post_init__(self) -> None:
        _positive("data.micro_batch", text=self.text, caption=self.caption, interleaved=self.interleaved)

    def of(self, stream: str) -> int:
        """The rows of a stream by its name."""
        return int(getattr(self, stream))


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """seed: of the order of rows. order: "blocks" permutes runs of 64 rows, so that each byte is read once; "rows"
    permutes rows. weights: "source=weight" words; a source that is not named weighs as many rows as it has, and where
    some are named all must be. scale_batch: factor on all quotas.
    """

    quotas: Quotas = field(default_factory=Quotas)
    micro_batch: MicroBatch = field(default_factory=MicroBatch)
    seed: int = 0
    order: str = "blocks"
    weights: tuple[str, ...] = ()
    scale_batch: float = 1.0

    def __post_init__(self) -> None:
        _one_of("data", order=(self.order, ORDERS))
        _positive("data", scale_batch=self.scale_batch)

    def quota(self, stream: str) -> int:
        """Rows of a stream in an update: the quota times scale_batch, at least 1 unless the quota is 0."""
        quota = self.quotas.of(stream)
        return max(1, math.floor(quota * self.scale_batch + 0.5)) if quota else 0


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldoutConfig:
    """every: updates between two looks at what is held out, and once at the end. rows: of each stream, at most."""

    every: int = 1000
    rows: int = 512

    def __post_init__(self) -> None:
        _positive("heldout", every=self.every, rows=self.rows)


@dataclass(frozen=True, kw_only=True, slots=True)
class SystemConfig:
    """How it runs, whatever is trained. precision: "bf16" computes in bf16 on float32 master weights and sums gradients
    in float32; norms, softmax, xPos and the loss are float32 in either.

    compile: each block by torch.compile. checkpoint_activations: keep what goes into a block and compute the rest again
    in the backward pass. shard_ranks: ranks that share one copy of weights, gradients and moments (FSDP); more ranks
    replicate it (HSDP); 0: those of one node. reshard: give gathered weights back between forward and backward, which
    saves memory and gathers them twice.
    """

    precision: str = "float32"
    compile: bool = False
    checkpoint_activations: bool = False
    shard_ranks: int = 0
    reshard: bool = False

    def __post_init__(self) -> None:
        _one_of("system", precision=(self.precision, PRECISIONS))
        if self.shard_ranks < 0:
            raise ConfigError(f"system.shard_ranks is {self.shard_ranks}; set it to 0 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """All of a training run. seed: of the initial weights and of dropout. checkpoint_every: updates (K2: 5,000). keep:
    complete checkpoints that stay.
    """

    name: str
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    heldout: HeldoutConfig = field(default_factory=HeldoutConfig)
    system: SystemConfig = field(default_factory=SystemConfig)
    seed: int = 2
    checkpoint_every: int = 5000
    keep: int = 3

    def __post_init__(self) -> None:
        _positive("", checkpoint_every=self.checkpoint_every, keep=self.keep)
        if not self.model.images and (self.data.quotas.caption or self.data.quotas.interleaved):
            raise ConfigError(
                "model.images is false and there are rows with images to draw: add --set data.quotas.caption=0 "
                "--set data.quotas.interleaved=0, or leave model.images true"
            )


def kosmos1() -> Config:
    """KOSMOS-1: 1,340,180,480 parameters in the decoder, 1,662,375,936 in all (P tables 17 and 18)."""
    return Config(name="kosmos1", system=SystemConfig(precision="bf16", compile=True))


def text() -> Config:
    """The paper's language-only baseline (P section 4.9): the same decoder on the text stream alone, without images."""
    return replace(
        kosmos1(),
        name="text",
        model=ModelConfig(images=False),
        data=DataConfig(quotas=Quotas(text=256, caption=0, interleaved=0)),
    )


def tiny() -> Config:
    """The same architecture, small: for two cores, some hundred updates, and a vocabulary as the manifest has it.

    A second an update. Captions are short and every token weighs the same, so there are many: with (2, 32, 4) rows at
    1e-3 their loss on the bundled web was 1.88 after 100 updates, with these 1.52, and 1.30 at 2e-3.
    """
    tower = TowerConfig(width=64, layers=2, heads=4, ffn_dim=256)
    return Config(
        name="tiny",
        model=ModelConfig(
            vocab_size=0,
            dim=128,
            layers=4,
            heads=4,
            ffn_dim=512,
            dropout=0.0,
            attention_dropout=0.0,
            connector_heads=4,
            tower=tower,
        ),
        data=DataConfig(
            quotas=Quotas(text=1, caption=64, interleaved=2),
            micro_batch=MicroBatch(text=1, caption=16, interleaved=1),
        ),
        optim=OptimConfig(lr=2e-3, warmup_updates=10, total_updates=1000),
        heldout=HeldoutConfig(every=50, rows=128),
        checkpoint_every=50,
    )
