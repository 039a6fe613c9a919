"""Real processes on this host, for what shows or measures them: a server, daemons, a bad network.

server     a private Valkey that can be frozen, killed, and come back with less than it had
daemon     `coherenced serve` as a process, likewise
proxy      the way between the two, which can be told to misbehave
"""
