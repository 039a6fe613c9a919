"""`coherenced bench`: our figures beside those of what a user would pick instead.

    model       Figure, Target, Row, Context: what a suite is given and what it returns
    rounds      measuring: ours, peer, ours, peer …, and what the samples say together
    rig         a private server and real daemons, in a directory that goes away
    talk        a blocking RESP connection
    load        many requests over many connections: redis-benchmark, or `generator`
    processes   CPU time and memory of a process; child processes that answer with JSON
    rivals, bento               other servers and caches, where they are installed
    generator, peers, flood, holder, lanes, sink, watched
                                programs that run as processes of their own
    server_costs, paces         unit costs in a stream, and after a rest
    cost_model, truth           what a fleet costs by them; that beside 1 to 8 real nodes
    fleet/                      whole fleets of the real core, counted in virtual time
    plot                        figures drawn in text
    suites/     one module each, `run(context) -> list[Row]`

Absolute figures are those of one machine at one moment; what is compared is the ratio to
a peer that was measured in the same run, in turns with us, under the same load.
"""
