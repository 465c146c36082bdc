"""Weights in and out, without executing anything in a file.

tensors archive          safetensors; pickled archives, read as data
shapes clip kosmos2      the names and shapes of ours; CLIP's tower in three layouts; Kosmos-2
start                    what a new run's weights start from, kept in its folder
export exported card     a run as one folder; such a folder; its model card
"""
