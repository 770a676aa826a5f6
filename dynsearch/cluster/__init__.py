"""Jobs on a Ray cluster: submitted from anywhere, run by the cluster, watched over HTTP."""
