"""What `benchmarks/peers.py` runs elsewhere: the client processes, and the clock inside the server."""
