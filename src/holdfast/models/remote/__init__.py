"""Models of providers: requests, endpoints, outages, and the ledger in which nothing is paid twice."""
