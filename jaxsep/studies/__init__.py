"""Studies: the same question asked of many trainings, `jaxsep study run | table | plot`.

A study file gives cells, which are configs with names for what differs in them (`definition`). `running` trains and
scores each cell under each seed in a folder, `results` reads that folder, `table` and `plots` say what came out.
"""
