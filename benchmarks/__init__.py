"""Measures the same work by this project and by others on this machine, and compares the speeds.

    make bench                                  all rows, on the CPU
    python -m benchmarks --device cuda          on a machine with torch and little else; what is missing is left out
    python -m benchmarks --table FILE           the table of an earlier run

How it is measured:

* Each measurement is a process of its own, and the contenders take turns (A B C A B C ...), so that a disturbance of
  the machine meets all of them. Ratios are taken within a turn; the median of the turns counts.
* All have the same images, networks, initial weights, batch size, epochs and threads. Peers train plain torch modules
  of the same layers (contenders/networks.py); one function judges every trained network on the same test images
  (contenders/judge.py).
* The time is that of the training epochs: imports, reading the data set and the first epoch (threads, caches, kernels
  that are compiled) are excluded, for all alike. Only the time to a given quality has the first epoch in it. Searches,
  preparation and commands are timed whole.

rows/ says what is measured, contenders/ is what runs in the processes.
"""
