"""A whole fleet in this process and in virtual time: as many nodes as no machine holds.

    server      the lane on Redis as a node needs it: log, roster, values, who listens
    turns       one process: its event loop takes what has arrived, does it, sends what came of it
    fleet       nodes of the real core around one server; writers, readers; what was counted
    herd        all of them lose the lane at once, and are asked for all they had held
    table       fleets of many sizes, what they cost, how they grow

Nothing is guessed: every probe, acknowledgement and batch is one that `coherenced.core` has asked
for. What a turn takes comes from unit costs that were measured (`UnitCosts`), so that a busy server
gathers more into each of its turns, as a real one does. It is no proof of anything (that is what
`tests/sim` is for, with every fault): here all goes well, and is counted.
"""
