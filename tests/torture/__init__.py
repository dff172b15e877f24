"""The crash and fault campaign: `make torture`.

`scenario` says what is run and what its scripted models say; `runner` runs it, in processes that can be killed;
`faults` kills and fills disks there, and `sabotage` breaks the product there. Everything else looks from outside:
`cases` break things, `evidence` compares what stood on the disk before with what stands there after.
"""
