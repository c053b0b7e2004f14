"""What a run will take: measured on a few images and a few sums, reckoned for each stage, and set beside what it took.

::

    a few images, in as many processes as the run will have ─ probe ─┐
    a few sums of each kind that later stages do          ─ kernels ─┼─► costs: a row for each stage ─► plan, run.json
    what this output's last run took                                ─┘
"""
