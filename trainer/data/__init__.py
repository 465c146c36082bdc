"""From manifests to the batches of an update, and to the losses on what is held out.

order                    which row is where in which update: a pure function of the update's number
cache rows               shards by range or whole, checked; rows by number
images collate loader    pixels; micro-batches; updates, loaded ahead
heldout                  the loss on rows that nobody trains on
"""
