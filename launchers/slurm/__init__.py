"""Runs through Slurm: request and site profile become a batch script (by submitit), scripts become jobs, jobs look after ranks.

========================  ==========================================================================
:mod:`commands`           sbatch, squeue, scontrol, scancel: called with a clean environment, parsed
:mod:`script`             request and site profile -> the text of a batch script
:mod:`ledger`             what was submitted: written before sbatch, so that nothing is lost or submitted twice
:mod:`grouping`           requests -> arrays and jobs
:mod:`submit`             submitting, finding what was submitted
:mod:`ours`               whether a job that bears a number of ours is ours
:mod:`survey`             where submitted runs stand, from ledger, scheduler and run folders
:mod:`settle`             the last word on what ended without one
:mod:`again`              submitting again, from a job or from a look
:mod:`starter`            the ranks of one run as a step (srun)
:mod:`job`                what runs in the batch step: starts runs and watches them
:mod:`leaving`            when its ranks have to leave, why, and how long they may take
:mod:`concluding`         what it does about them afterwards: again here, a requeue, a new job
========================  ==========================================================================
"""
