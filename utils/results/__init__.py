"""Results: what a run measured, in its folder (CSV, JSON) and in the database (any SQL).

The folder is the truth and the database its copy: ``records`` are the rows, ``folder`` keeps them
in a run's folder, ``schema`` and ``database`` in SQL, ``recorder`` is what a run holds.
"""
