"""KOSMOS-1 and its training. Reads manifests by their digest, never a folder; opens no address of the web.

config batch             what is trained, on what, how: tiny(), kosmos1(), text(); what the loader hands to the loop
decoder tower model      single-device code with shape-suffixed names; parallelism comes from outside
world parallel           the processes of a run; the model laid over them: FSDP2, HSDP, bf16, compiled blocks
data/                    manifests -> rows -> batches; what is held out
weights/                 CLIP, Kosmos-2, other runs in; one folder out
checkpoints/             a run's folder; writing and reading by any number of processes
loop metrics flops       an optimiser step; what it tells; what it needs
job fit memory           what is asked for and what is there; the whole job; whether it fits
command faces place      `kosmos train`; what a person sees; where it runs
launch news torchrun     Ray Train, the one module that knows Ray; what its workers say; torchrun
board estimate           TensorBoard and W&B; `kosmos plan train`
generate words answer    greedy decoding; tokens and text; `kosmos generate`
"""
