"""Which IP addresses belong to the public internet.

Takes an address as text, gives a yes or no. The table is written out, since Python's own answer changes with its version.
"""

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final

_NOT_PUBLIC_V4: Final = tuple(
    ip_network(block)
    for block in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # shared by a carrier's customers; also one cloud's metadata service
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # public by its number, yet one cloud's host agent
        "169.254.0.0/16",  # link-local; metadata services of most clouds
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # relays from IPv6 to IPv4
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
    )
)
# All else is loopback, link-local, unique local, multicast, reserved, or a spelling of an IPv4 address (mapped, NAT64).
_UNICAST_V6: Final = ip_network("2000::/3")
_NOT_PUBLIC_V6: Final = tuple(
    ip_network(block)
    for block in (
        "2001::/23",  # protocol assignments, Teredo among them, which holds an IPv4 address
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4, which holds an IPv4 address
        "3fff::/20",  # documentation
    )
)


def is_public(text: str) -> bool:
    """Whether an address is one that anybody on the internet could reach by itself. What is no address is not public."""
    address = _parsed(text)
    if isinstance(address, IPv4Address):
        return not any(address in block for block in _NOT_PUBLIC_V4)
    if isinstance(address, IPv6Address):
        return address.scope_id is None and address in _UNICAST_V6 and not any(address in block for block in _NOT_PUBLIC_V6)
    return False


def _parsed(text: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None
