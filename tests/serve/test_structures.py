"""Hashes, lists, sets and sorted sets through a daemon: every byte as the server would say it."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

import hiredis
import pytest

from coherenced.wire.structures import MOST_WORDS
from tests.cluster.daemons import Daemon
from tests.serve.command_sequences import Command
from tests.servers import Server, available_kinds

BATCHES = 250
KEYS = (b"h", b"l", b"s", b"z", b"t", b"none")
"""Of each kind one, mostly; `t` holds text; any command meets any of them now and then."""
MEMBERS = (b"a", b"b", b"c", b"7", b"", b"\x00\xff\r\n")
SCORES = (b"1", b"-2.5", b"inf", b"-inf", b"3e2", b"0.1", b"1e-7", b"12345678901234567", b"x")
NUMBERS = (b"0", b"1", b"-1", b"2", b"9007199254740993", b"9223372036854775807", b"x", b"1.5")

# One letter a word: K the key, M a member, V a value, S a score, N a number, R an index, 1 to 3
# times what stands before; what is random in Redis is asked for as a whole.
UNORDERED = b"SMEMBERS SRANDMEMBER SSCAN SUNION SDIFF SINTER SPOP".split()
SHAPES = """
HGET hM|HMGET hMM|HGETALL h|HEXISTS hM|HKEYS h|HVALS h|HLEN h|HSTRLEN hM|HSCAN h0
HRANDFIELD h + 99|HRANDFIELD h + 99 WITHVALUES|HRANDFIELD h + 99 NONSENSE|HRANDFIELD h + x
HSET hMV|HSET hMVMV|HSET hMVM|HSETNX hMV|HMSET hMVMV|HDEL hM|HDEL hMM|HINCRBY hMN|HINCRBYFLOAT hMS
LLEN l|LRANGE lRR|LINDEX lR|LPOS lM|LPOS lM COUNT 0|LPOS lM RANK 0
LPUSH lM|LPUSH lMM|RPUSH lMM|LPUSHX lM|RPUSHX lM|LPOP l|RPOP l|LPOP lR|RPOP lR|LSET lRM|LREM lRM
LTRIM lRR|LINSERT l BEFORE MM|LINSERT l AFTER MM|LINSERT l NEAR MM|LMOVE ll LEFT RIGHT
RPOPLPUSH ll|LMOVE ls RIGHT LEFT
SCARD s|SISMEMBER sM|SMISMEMBER sMM|SMEMBERS s|SRANDMEMBER s + 99|SSCAN s0|SINTER ss|SUNION ss
SDIFF ss|SUNION sh|SADD sM|SADD sMM|SREM sM|SREM sMM|SPOP s + 99|SPOP s + -1|SMOVE ssM
ZCARD z|ZCOUNT zSS|ZLEXCOUNT z - +|ZSCORE zM|ZMSCORE zMM|ZRANGE zRR|ZRANGE zRR WITHSCORES
ZRANGE zSS BYSCORE WITHSCORES|ZRANGE z -inf inf BYSCORE LIMIT 0 2|ZREVRANGE zRR withscores
ZRANGEBYSCORE zSS WITHSCORES|ZREVRANGEBYSCORE z inf -inf WITHSCORES|ZRANGEBYSCORE z -inf inf
ZRANGEBYLEX z - +|ZREVRANGEBYLEX z + -|ZRANK zM|ZREVRANK zM|ZSCAN z0|ZRANDMEMBER z + 99
ZRANDMEMBER z + 99 WITHSCORES|ZADD zSM|ZADD zSMSM|ZADD z CH SM|ZADD z NX SM|ZADD z XX INCR SM
ZADD z INCR SM|ZADD z GT CH SM|ZADD z NX XX SM|ZADD z INCR SMSM|ZADD zSMS|ZINCRBY zSM|ZREM zMM
ZPOPMIN z|ZPOPMAX z|ZPOPMIN zR|ZPOPMAX zR|ZREMRANGEBYSCORE zSS|ZREMRANGEBYRANK zRR
ZREMRANGEBYLEX z - +
GET h|TYPE l|DEL z|SET t + text|APPEND s + x|HGET|LPUSH l|ZADD zS|SADD
"""


@pytest.fixture(scope="module", params=available_kinds())
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[Daemon, Server]]:
    """A daemon, and a server of the same kind as the one behind it."""
    with Server(request.param) as behind, Server(request.param) as plain:
        daemon = Daemon("n1", behind.unix_url)
        try:
            yield daemon.start(), plain
            daemon.stop()
        finally:
            daemon.remove()


class Raw:
    """A connection that keeps the bytes of the replies."""

    def __init__(self, path: Path | str, resp3: bool = False) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(20)
        self.socket.connect(str(path))
        self.reader = hiredis.Reader(notEnoughData=self)
        if resp3:
            self.ask([(b"HELLO", b"3")])

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def ask(self, batch: Sequence[Command]) -> bytes:
        self.socket.sendall(b"".join(map(hiredis.pack_command, batch)))
        answer, replies = b"", 0
        while replies < len(batch):
            data = self.socket.recv(1 << 16)
            assert data, "hung up"
            answer += data
            self.reader.feed(data)
            while self.reader.gets() is not self:
                replies += 1
        return answer


def commands(seed: int) -> Iterator[list[Command]]:
    chance = random.Random(seed)
    shapes = [shape for line in SHAPES.split("\n") for shape in line.split("|") if shape]

    def word(letter: str) -> bytes:
        if letter.islower():
            return letter.encode() if chance.random() < 0.95 else chance.choice(KEYS)
        drawn = {"M": MEMBERS, "V": MEMBERS, "S": SCORES, "N": NUMBERS, "R": NUMBERS[:5]}
        return chance.choice(drawn[letter]) if letter in drawn else letter.encode()

    def command() -> Command:
        verb, *rest = chance.choice(shapes).split(" ")
        made = [verb.encode()]
        for part in rest:
            letters = all(letter in "hlsztMVSNR0" for letter in part)
            if part != "+":
                made += map(word, part) if letters else [part.encode()]
        return tuple(made)

    for _ in range(BATCHES):
        batch = [command() for _ in range(chance.choice((1, 1, 3, 8)))]
        yield [(b"MULTI",), *batch, (b"EXEC",)] if chance.random() < 0.15 else batch


@pytest.mark.parametrize("resp3", [False, True], ids=["resp2", "resp3"])
def test_replies_are_the_servers_byte_by_byte(pair: tuple[Daemon, Server], resp3: bool) -> None:
    daemon, plain = pair
    with Raw(daemon.socket, resp3) as ours, Raw(plain.socket, resp3) as theirs:
        for endpoint in (ours, theirs):
            endpoint.ask([(b"FLUSHALL",), (b"SET", b"t", b"text")])
        for batch in commands(seed=7):
            told, expected = ours.ask(batch), theirs.ask(batch)
            if told != expected and any(command[0] in UNORDERED for command in batch):
                # A union, and a set of text in Redis 7.0, is in an order drawn at its start.
                assert sorted(told.split(b"\r\n")) == sorted(expected.split(b"\r\n")), batch
            else:
                assert told == expected, batch


def test_what_came_with_a_newer_server(pair: tuple[Daemon, Server]) -> None:
    daemon, plain = pair
    if plain.command("COMMAND", "INFO", "ZRANK")[0][1] == 3:
        pytest.skip("no ZRANK WITHSCORE")
    batch: list[Command] = [(b"DEL", b"z"), (b"ZADD", b"z", b"1.5", b"a")]
    batch += [(b"ZRANK", b"z", name, option) for name in (b"a", b"b") for option in (b"WITHSCORE",)]
    for resp3 in (False, True):
        with Raw(daemon.socket, resp3) as ours, Raw(plain.socket, resp3) as theirs:
            assert ours.ask(batch) == theirs.ask(batch)


def test_what_a_key_held_before_ends_on_every_node(pair: tuple[Daemon, Server]) -> None:
    daemon, _ = pair
    other = Daemon("n2", f"unix://{behind_of(daemon)}").start()
    try:
        daemon.command("DEL", "was")
        for node in (daemon, other):
            assert node.command("GET", "was") is None  # and L1 keeps that
        # The acknowledgement is of this record or a later one: all before it are applied, too.
        assert daemon.command("RPUSH", "was", "a", "b") == 2
        assert isinstance(daemon.command("COH.SET", "fence", "1", "ACK", "all"), bytes)
        for node in (daemon, other):
            assert str(node.command("GET", "was")).startswith("WRONGTYPE")
            assert node.command("LRANGE", "was", "0", "-1") == [b"a", b"b"]
        assert other.command("DEL", "was") == 1
        assert isinstance(other.command("COH.SET", "fence", "2", "ACK", "all"), bytes)
        assert daemon.command("GET", "was") is None
    finally:
        other.remove()


def behind_of(daemon: Daemon) -> str:
    return daemon.redis_url.removeprefix("unix://")


def test_more_words_than_a_script_can_hand_over_are_refused(pair: tuple[Daemon, Server]) -> None:
    daemon, _ = pair
    members = [b"%d" % number for number in range(MOST_WORDS - 2)]
    assert daemon.command("SADD", "many", *members) == MOST_WORDS - 2
    assert len(daemon.command("SMEMBERS", "many")) == MOST_WORDS - 2
    refused = str(daemon.command("SADD", "many", *members, b"x"))
    assert "at most 7000 words" in refused
