#!/usr/bin/env python3
"""switch.py DELAY_MS MBIT PORT...: an Ethernet switch in user space, slow on purpose.

Every frame leaves DELAY_MS after it came, and a port sends at most MBIT megabits a second. It does
what `tc netem` does, on kernels that have none. Run it in a network namespace that holds the PORTs,
one end of a veth pair each.
"""
import fcntl
import heapq
import select
import socket
import struct
import sys
import time

SIOCETHTOOL = 0x8946
# Whoever reads frames from a veth must ask its other end for whole checksums and single packets.
OFFLOADS = {"rx": 0x15, "tx": 0x17, "scatter": 0x19, "tso": 0x1F, "gso": 0x24, "gro": 0x2C}


def plain(port):
    """Switches off what network cards do for the kernel."""
    import ctypes

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for command in OFFLOADS.values():
            value = ctypes.create_string_buffer(struct.pack("II", command, 0))
            request = struct.pack("16sP", port.encode(), ctypes.addressof(value))
            try:
                fcntl.ioctl(control, SIOCETHTOOL, request)
            except OSError:
                pass  # this one is not there, or cannot be changed


def main():
    if sys.argv[1] == "--plain":
        return plain(sys.argv[2])
    delay = float(sys.argv[1]) / 1e3
    rate = float(sys.argv[2]) * 1e6 / 8
    ports = []
    for name in sys.argv[3:]:
        plain(name)
        port = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        port.bind((name, 0))
        port.setblocking(False)
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            port.setsockopt(socket.SOL_SOCKET, option, 1 << 26)
        ports.append(port)
    at = {}  # port by hardware address
    free = {port: 0.0 for port in ports}  # when a port has sent what it was given
    waiting, number = [], 0  # (time, number, port, frame)
    while True:
        now = time.monotonic()
        while waiting and waiting[0][0] <= now:
            _, _, port, frame = heapq.heappop(waiting)
            try:
                port.send(frame)
            except OSError:
                pass  # a full queue loses frames, as networks do
        pause = max(0.0, waiting[0][0] - now) if waiting else None
        readable, _, _ = select.select(ports, [], [], pause)
        for port in readable:
            for _ in range(64):
                try:
                    frame, address = port.recvfrom(70000)
                except BlockingIOError:
                    break
                if address[2] == socket.PACKET_OUTGOING:
                    continue
                at[frame[6:12]] = port
                known = at.get(frame[:6])
                now = time.monotonic()
                for out in [known] if known else ports:
                    if out is port:
                        continue
                    free[out] = max(free[out], now) + len(frame) / rate
                    number += 1
                    heapq.heappush(waiting, (free[out] + delay, number, out, frame))


main()
