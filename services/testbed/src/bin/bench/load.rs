//! Load from peers in this process.

use std::time::Duration;

use anyhow::Context as _;
use proto::{
    link::v1::{EngineHealth, KeyGrant, Part, down, up},
    registry::v1::{CreateTokenRequest, EnrolRequest, Kind},
};
use testbed::{
    network::Network,
    operator::{any_token, fresh_id},
    peer::{LinkPeer, PATIENCE},
    wait::until,
};
use wire::PublicKey;

/// An enrolled identity with its granted key.
#[derive(Clone, Debug)]
pub(crate) struct KeyedPeer {
    pub(crate) id: String,
    pub(crate) central: PublicKey,
    pub(crate) grant: KeyGrant,
}

/// Enrols `count` charging points or drivers, and gets a key for each.
pub(crate) async fn keyed(network: &Network, kind: Kind, count: usize) -> anyhow::Result<Vec<KeyedPeer>> {
    let operator = &network.operator;
    let token = CreateTokenRequest { kinds: vec![kind.into()], uses: Some(u32::try_from(count)?), ..any_token() };
    let token = operator.identities.clone().create_token(token).await?.into_inner().token;
    let (part, prefix) = if kind == Kind::Driver { (Part::Driver, "driver") } else { (Part::Monitor, "BENCH") };
    let mut all = Vec::with_capacity(count);
    for number in 0..count {
        let id = format!("{prefix}-{number}");
        let request = EnrolRequest {
            request_id: fresh_id(),
            token: token.clone(),
            kind: kind.into(),
            id: id.clone(),
            city: "Valencia".into(),
            ..Default::default()
        };
        let enrolled = operator.identities.clone().enrol(request).await?.into_inner();
        let pin = enrolled.pins.first().context("no pins")?;
        let central = PublicKey::from_bytes(pin.as_slice().try_into().context("a pin has 32 bytes")?);
        let grant = grant(network, part, &id, central, &enrolled.credential).await?;
        all.push(KeyedPeer { id, central, grant });
    }
    Ok(all)
}

async fn grant(
    network: &Network,
    part: Part,
    id: &str,
    central: PublicKey,
    credential: &str,
) -> anyhow::Result<KeyGrant> {
    until(format_args!("a key for {id}"), Duration::from_secs(30), async || {
        let contact = LinkPeer::first_contact(network.central_link, part, id, central, credential).await;
        let (mut peer, first) = contact.map_err(|error| format!("{error:#}"))?;
        if let down::Body::KeyGrant(grant) = first {
            return Ok(grant);
        }
        peer.receive_until(PATIENCE, granted).await.map_err(|error| format!("{error:#} after {first:?}"))
    })
    .await
}

fn granted(body: &down::Body) -> Option<KeyGrant> {
    if let down::Body::KeyGrant(grant) = body { Some(grant.clone()) } else { None }
}

/// Each peer sends `EngineHealth` at this interval until the time is over. Answers the number of messages.
pub(crate) async fn say(peers: &mut [LinkPeer], every: Duration, time: Duration) -> anyhow::Result<u64> {
    let until = tokio::time::Instant::now() + time;
    let each = peers.iter_mut().map(|peer| async move {
        let mut said = 0;
        while tokio::time::Instant::now() < until {
            peer.notify(up::Body::EngineHealth(EngineHealth { healthy: true, detail: String::new() })).await?;
            said += 1;
            peer.idle(every).await?;
        }
        anyhow::Ok(said)
    });
    Ok(futures::future::try_join_all(each).await?.into_iter().sum())
}
