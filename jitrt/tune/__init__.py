"""Choosing a tactic for every problem: candidates are compiled in parallel, verified, and timed on the GPU at hand.

select          the way in, and the main loop
search          one problem's state: what is left to try, what leads
candidates      what there is to try; cost, budget: in what order and for how long
shipped         what comes with jitrt and is tried first; table makes it from timings, fit the cost model (from samples)
replay          how good first guesses and short searches were, by timings
compile_pool    candidates to binaries, in processes; kernel_cache: kept on disk
measure         binaries to microseconds, in a process that may die; rig, bench, session, buffers: inside it
verify          random operands (operands) and the reference they must give (tolerance)
timing_cache    what came of every candidate; recall: as one run sees it; keys: what it depends on
worker          the processes
"""
