"""The command line of pyrobayes: parse, one library call, print. It computes nothing."""
