"""`demo --faults`: the table of faults walked through with real processes, every read checked.

table      the faults: what is done to the cluster, and how it is undone
world      the cluster: a primary, a replica, daemons, and a proxy between each and them
clients    who reads and writes meanwhile
ledger     what they did and saw, and whether any promise was broken
walk       from one fault to the next, and the telling of it
"""
