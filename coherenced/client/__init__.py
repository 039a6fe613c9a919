"""The Python client: one sans-IO core, a blocking shell and an asyncio shell around it.

address   where the daemon's socket is
values    Python objects to bytes and back
replies   error replies to the error tree, versions, results
core      every method, once: arguments -> `Request` (bytes out, how to read the replies)
sync      `Client`: blocking sockets, a bounded pool, threads and forks
aio       `AsyncClient`: the same methods with `await`, pipelined on asyncio or uvloop
"""
