"""What a recipe costs before a cluster is asked for it: parameters, memory of every role, tokens, and whether it fits.

``shapes`` knows the models, ``formulas`` counts bytes, ``workload`` the tokens of a step, ``roles`` adds up a process,
``plan`` a run, ``search`` finds the smallest cluster and what mends a plan that does not fit, ``table`` shows it.
Arithmetic only: neither torch nor an engine is loaded, so that a plan costs less than a second.
"""
