"""A run's folder, and the checkpoints in it that any number of processes write and read.

run changes plain        the folder; what may differ at a later start; dataclasses as JSON keeps them
state index lines        the tensors of a checkpoint by name; where each piece of them lies; the files of metrics
sharded resharded saver  writing, reading, and writing while the training goes on
"""
