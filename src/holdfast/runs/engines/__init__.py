"""Where the steps of a plan are carried out: on this machine, on a Ray cluster, as jobs of a queue."""
