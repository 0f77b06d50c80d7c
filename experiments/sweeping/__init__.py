"""Sweeps: a file says what varies; its runs are planned in one process, and any engine does them.

``sweep_file`` reads and ``points`` expands, ``planning`` validates and identifies, ``standing``
looks at what is there, ``pool`` carries out with the processes of ``local`` or ``on_ray``,
``slurm`` hands over to a cluster. All that a sweep knows of a run lies in the run's folder.
"""
