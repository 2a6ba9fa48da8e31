"""A cluster's network on one machine: network namespaces, a name server for headless Services, and
one address that stands for several pods.

It takes root, `unshare` and `ip`. The machine's own network isn't touched: everything is in a
namespace that begins with one thread and is gone with its last process.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import random
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import dnslib
import pytest

T = TypeVar("T")
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Connect = Callable[[], Coroutine[Any, Any, Streams]]

BRIDGE = "pods"
GATEWAY = "10.244.0.1"
DNS_ADDRESS = "10.96.0.10"
SERVICE_ADDRESS = "10.96.0.80"
CLUSTER_DOMAIN = "cluster.local"
CLONE_NEWNET = 0x40000000
"""unshare(2)."""
SERVERS = ("one", "other")
MAX_UDP_BYTES = 512
"""RFC 1035, section 2.3.4: a longer answer is cut, and asked for again by TCP."""


def need_namespaces() -> None:
    """Skips the test where this machine doesn't allow them; never in CI."""
    missing = [tool for tool in ("unshare", "ip", "kubectl") if shutil.which(tool) is None]
    allowed = ["unshare", "--net", "--mount", "true"]
    if missing:
        reason = f"{' and '.join(missing)} not installed"
    elif subprocess.run(allowed, capture_output=True, check=False).returncode:
        reason = "no right to make namespaces (it takes root)"
    else:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def in_cluster(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Runs `main` in a thread with a network of its own, into which pods are plugged. Processes and
    threads that it starts are in it too."""

    def run() -> T:
        _call("unshare", CLONE_NEWNET)
        ip("link set lo up")
        # Of its own, or it would take that of one pod after the other.
        ip(f"link add {BRIDGE} address {hardware_address(GATEWAY)} type bridge")
        for address in (f"{GATEWAY}/24", DNS_ADDRESS, SERVICE_ADDRESS):
            ip(f"address add {address} dev {BRIDGE}")
        ip(f"link set {BRIDGE} up")
        return asyncio.run(main())

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(run).result()


def _call(name: str, *arguments: int) -> None:
    """A function of the C library, for the calling thread. Raises `OSError`."""
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def hardware_address(address: str) -> str:
    return "02:00:" + ":".join(f"{int(part):02x}" for part in address.split("."))


def ip(arguments: str) -> None:
    subprocess.run(["ip", *arguments.split()], check=True)


@dataclass
class ClusterDns:
    """Answers as two CoreDNS behind one address do, each with a cache of its own: what one says may
    be `ttl_s` old, and the next answer may come from the other."""

    ttl_s: float
    records: dict[str, list[str]] = field(default_factory=dict)
    """Name → IPv4 addresses. A name without any doesn't exist."""
    fails: bool = False
    """Every answer is SERVFAIL."""
    num_by_tcp: int = 0
    _cached: dict[tuple[str, ...], tuple[float, dnslib.DNSRecord]] = field(default_factory=dict)

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(
            lambda: _Datagrams(self), (DNS_ADDRESS, 53)
        )
        server = await asyncio.start_server(self._by_tcp, DNS_ADDRESS, 53)
        try:
            yield
        finally:
            server.close()
            transport.close()

    def answer(self, data: bytes, max_bytes: int | None = None) -> bytes:
        query = dnslib.DNSRecord.parse(data)
        reply = self._reply(query)
        reply.header.id = query.header.id
        packed = bytes(reply.pack())
        if max_bytes is None or len(packed) <= max_bytes:
            return packed
        cut = query.reply()
        cut.header.tc = 1
        return bytes(cut.pack())

    def _reply(self, query: dnslib.DNSRecord) -> dnslib.DNSRecord:
        if self.fails:
            reply = query.reply()
            reply.header.rcode = dnslib.RCODE.SERVFAIL
            return reply
        asked = str(query.q.qname).rstrip("."), dnslib.QTYPE[query.q.qtype]
        key = (*asked, random.choice(SERVERS))
        expires_s, reply = self._cached.get(key, (0.0, None))
        if time.monotonic() >= expires_s:
            reply = self._look_up(query, *asked)
            self._cached[key] = time.monotonic() + self.ttl_s, reply
        return reply

    def _look_up(self, query: dnslib.DNSRecord, name: str, kind: str) -> dnslib.DNSRecord:
        reply = query.reply()
        addresses = self.records.get(name, [])
        if not addresses:
            reply.header.rcode = dnslib.RCODE.NXDOMAIN
        for address in random.sample(addresses, len(addresses)) if kind == "A" else ():
            reply.add_answer(dnslib.RR(name, ttl=round(self.ttl_s), rdata=dnslib.A(address)))
        return reply

    async def _by_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                (length,) = struct.unpack("!H", await reader.readexactly(2))
                answer = self.answer(await reader.readexactly(length))
                self.num_by_tcp += 1
                writer.write(struct.pack("!H", len(answer)) + answer)


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, dns: ClusterDns) -> None:
        self._dns = dns

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self._transport = transport

    def datagram_received(self, data: bytes, sender: Any) -> None:
        self._transport.sendto(self._dns.answer(data, MAX_UDP_BYTES), sender)


@contextlib.asynccontextmanager
async def forwarding(host: str, port: int, connect: Connect) -> AsyncIterator[str]:
    """A URL that leads to where `connect` goes, for each connection anew."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(OSError):
            there = await connect()
            with contextlib.closing(there[1]):
                pumps = [
                    asyncio.create_task(_pump(reader, there[1])),
                    asyncio.create_task(_pump(there[0], writer)),
                ]
                try:
                    await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for pump in pumps:
                        pump.cancel()

    server = await asyncio.start_server(connected, host, port)
    try:
        yield f"http://{host}:{port}"
    finally:
        server.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()


async def connect_outside(host: str, port: int) -> Streams:
    """From the cluster's network to a server in the machine's own, where the main thread is."""

    def make_socket() -> socket.socket:
        with open(f"/proc/{os.getpid()}/ns/net") as outside:
            _call("setns", outside.fileno(), CLONE_NEWNET)
        return socket.socket(socket.AF_INET, socket.SOCK_STREAM)

    with ThreadPoolExecutor(1) as thread:
        made = thread.submit(make_socket).result()
    made.setblocking(False)
    await asyncio.get_running_loop().sock_connect(made, (host, port))
    return await asyncio.open_connection(sock=made)
