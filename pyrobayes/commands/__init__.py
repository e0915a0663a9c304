"""What the commands of the command line compute, one after the other."""
