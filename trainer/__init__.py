"""KOSMOS-1 and its training. Reads manifests by their digest, never a folder; opens no address of the web.

config  what is trained, on what, how; tiny() and kosmos1()
decoder tower model   single-device code with shape-suffixed names; parallelism comes from outside
order   which row is where in which update: a pure function of the update's number
rows images loader    manifests -> rows -> batches
loop checkpoints launch   an optimiser step; what survives; Ray Train
generate              a trained model's words
"""
