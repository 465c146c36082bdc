"""KOSMOS-1 and its training. Reads manifests by their digest, never a folder; opens no address of the web.

config batch             what is trained, on what, how: tiny(), kosmos1(); what the loader hands to the loop
decoder tower model      single-device code with shape-suffixed names; parallelism comes from outside
order                    which row is where in which update: a pure function of the update's number
rows images loader       manifests -> rows -> batches
loop checkpoints plain   an optimiser step; what survives, and its JSON
fit memory               the whole job; whether it fits
launch                   `kosmos train`: this process or Ray Train; the one module that knows Ray
generate words answer    greedy decoding; tokens and text; `kosmos generate`
"""
