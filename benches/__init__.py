"""ecocore beside its peers: the same workload, the same run, outputs compared before anything is timed."""
