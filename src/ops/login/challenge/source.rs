//! Where a login comes from: an address, and the networks around it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::id::ClientAddress;

/// An address, and the networks of which one person may have the whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Source {
    /// What counts as one address: an IPv6 network of 64 bits, which one computer has to itself, and each address in
    /// its one spelling.
    pub(super) address: String,
    /// The networks around it, each with how many crowded addresses it takes to be as crowded as one.
    pub(super) networks: Vec<(String, usize)>,
}

impl Source {
    /// The source that an application names.
    pub(super) fn of(client: &ClientAddress) -> Self {
        let client = client.as_str();
        let port = client.parse::<SocketAddr>().map(|with_port| with_port.ip());
        match client.parse::<IpAddr>().or(port).map(|address| address.to_canonical()) {
            Ok(IpAddr::V4(address)) => {
                let [a, b, c, _] = address.octets();
                let network = Ipv4Addr::new(a, b, c, 0);
                Self { address: address.to_string(), networks: vec![(format!("{network}/24"), 4)] }
            }
            Ok(IpAddr::V6(address)) => {
                let network = |bits: u32| {
                    let network = Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << (128 - bits)));
                    format!("{network}/{bits}")
                };
                // A customer is given a /56 or a /48: 256 or 65 536 networks that count as an address each.
                Self { address: network(64), networks: vec![(network(56), 4), (network(48), 16)] }
            }
            Err(_) => Self { address: client.to_owned(), networks: Vec::new() },
        }
    }
}
