//! Silent connections to the TLS listeners: they use up the limit of their own address only.

use std::{net::Ipv4Addr, time::Duration};

use anyhow::ensure;
use testbed::{network::Network, process};
use tokio::{io::AsyncReadExt as _, net::TcpStream, time::timeout};

use super::{ATTACKER, attack_at, honest};

/// More than the limit of unfinished handshakes of one network.
const STRANGERS: usize = 300;
/// Longest time of an operator's call while they are open.
const SOON: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_to_every_tls_listener_keep_no_operator_and_no_charging_point_out_spec_4_1()
-> anyhow::Result<()> {
    // Longer than the test, so that no silent connection times out.
    let network = Network::start(&["--tls-timeout", "5m"]).await?;
    let _post = honest(&network).await?;
    // From another address, and from that of the honest peers.
    for from in [ATTACKER, Ipv4Addr::LOCALHOST] {
        let mut silent = Vec::new();
        for door in [network.central_grpc, network.registry_grpc, network.registry_https] {
            for _ in 0..STRANGERS {
                silent.push(attack_at(from, door).await?);
            }
        }
        let identity = network.identity("olga").display().to_string();
        let (central, registry) = (network.central_grpc.to_string(), network.registry_grpc.to_string());
        let to = ["--identity", &identity, "--central", &central, "--registry", &registry];
        for list in [["charging-points", "list"], ["identities", "list"]] {
            let (code, out, error) = timeout(SOON, process::run(&[&list[..], &to[..]].concat(), &[])).await??;
            ensure!(code == 0 && out.contains("HONEST"), "from {from}: {out}{error}");
        }
        // The driver enrols by HTTPS, and Central verifies its credential at Registry.
        let newcomer = format!("CP-NEW-{}", from.octets()[1]);
        let _newcomer = network.charging_point(&newcomer).await?;
        ensure!(closed(&mut silent[0]).await, "from {from}: the oldest stranger still holds his place");
    }
    Ok(())
}

async fn closed(stream: &mut TcpStream) -> bool {
    matches!(timeout(SOON, stream.read(&mut [0; 1])).await, Ok(Ok(0) | Err(_)))
}
