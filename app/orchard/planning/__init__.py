"""Estimates what a run takes: measures a few images and sums, estimates each stage, compares it with the real run.

::

    a few images, in as many processes as the run will have ─ probe ─┐
    a few sums of each kind that later stages do          ─ kernels ─┼─► costs: a row for each stage ─► plan, run.json
    what this output's last run took                                ─┘
"""
