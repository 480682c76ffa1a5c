"""Runs through Slurm: request and site profile become a batch script (by submitit), scripts become jobs, jobs look after ranks.

========================  ==========================================================================
:mod:`commands`           sbatch, squeue, scontrol, scancel: called with a clean environment, parsed
:mod:`script`             request and site profile -> the text of a batch script
:mod:`ledger`             what was submitted: written before sbatch, so that nothing is lost or submitted twice
:mod:`submit`             grouping into arrays, submitting, adopting orphans, cancelling
:mod:`survey`             where submitted runs stand, from ledger, scheduler and run folders; settles what ended without a word
:mod:`starter`            the ranks of one run as a step (srun)
:mod:`job`                what runs in the batch step: starts runs, watches them, requeues, retries
========================  ==========================================================================
"""
