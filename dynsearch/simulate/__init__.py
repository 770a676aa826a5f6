"""One candidate or method on one device and workload: latency, energy, memory, FLOPs, activity."""
