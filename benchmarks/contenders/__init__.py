"""Holds what runs in the processes: the work of each kind, by this project and by its peers."""
