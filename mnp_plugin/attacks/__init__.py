"""Backdoor attacks, one file each."""
