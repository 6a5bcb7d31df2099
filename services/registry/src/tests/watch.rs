//! Central's stream of changes.

use std::time::Duration;

use proto::registry::v1::identity_event::Event;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::*;

pub(super) struct Following {
    events: Streaming<IdentityEvent>,
    /// Central's half of the stream; dropping it half-closes the stream.
    tell: Option<mpsc::Sender<WatchRequest>>,
}

impl Following {
    pub(super) async fn next(&mut self) -> IdentityEvent {
        let event = tokio::time::timeout(Duration::from_secs(10), self.events.message()).await;
        event.expect("an event in time").unwrap().expect("the stream goes on")
    }

    /// The events up to the mark `synchronised`, and the mark's revision.
    pub(super) async fn synchronised(&mut self) -> (Vec<IdentityEvent>, u64) {
        let mut events = Vec::new();
        loop {
            let event = self.next().await;
            if matches!(event.event, Some(Event::Synchronised(_))) {
                return (events, event.revision);
            }
            events.push(event);
        }
    }
}

pub(super) async fn follow(network: &RegistryNetwork, since_revision: u64, link_keys: Vec<Vec<u8>>) -> Following {
    let (tell, requests) = mpsc::channel(4);
    tell.send(WatchRequest { since_revision, link_keys }).await.unwrap();
    let events = network.central().watch(ReceiverStream::new(requests)).await.unwrap().into_inner();
    Following { events, tell: Some(tell) }
}

/// Reports Central's link keys.
pub(super) async fn report(network: &RegistryNetwork, link_keys: Vec<Vec<u8>>) {
    follow(network, 0, link_keys).await.synchronised().await;
}

fn shown(event: &IdentityEvent) -> String {
    match &event.event {
        Some(Event::Identity(identity)) => format!("{} {:?} {}", identity.id, identity.state(), identity.incarnation),
        Some(Event::Operator(operator)) => format!("{} removed={}", operator.name, operator.removed),
        Some(Event::Synchronised(_)) => "synchronised".into(),
        None => "nothing".into(),
    }
}

/// Blocks every other write until the returned sender is dropped.
async fn occupied(network: &RegistryNetwork) -> std::sync::mpsc::Sender<()> {
    let (release, released) = std::sync::mpsc::channel();
    let (begun, has_begun) = tokio::sync::oneshot::channel();
    let (database, mut begun) = (network.database().await, Some(begun));
    let work = move |_: &mut store::Conn| {
        let _told = begun.take().map(|begun| begun.send(()));
        let _until_dropped = released.recv();
        Ok::<_, store::Abort<()>>(())
    };
    tokio::spawn(async move { database.transaction("test", work).await });
    has_begun.await.unwrap();
    release
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_whose_caller_has_gone_is_pushed_and_kept_to_all_the_same_spec_1_2() {
    let network = RegistryNetwork::start().await;
    network.enrolled("CP-1").await;
    let mut following = follow(&network, 0, vec![]).await;
    following.synchronised().await;
    let mut bob = IdentitiesClient::new(network.person(Caller::Operator, "bob"));
    bob.list(ListIdentitiesRequest::default()).await.unwrap();

    let release = occupied(&network).await;
    let remove = RemoveRequest { request_id: request_id(), kind: Kind::ChargingPoint as i32, id: "CP-1".into() };
    let expel = RemoveOperatorRequest { request_id: request_id(), name: "bob".into(), force: false };
    let (mut identities, mut operators) = (network.operator(), network.operators());
    // Enough time for the calls to reach a busy Registry.
    let patience = Duration::from_secs(2);
    let (removed, expelled) = tokio::join!(
        tokio::time::timeout(patience, identities.remove(remove)),
        tokio::time::timeout(patience, operators.remove(expel)),
    );
    assert!(removed.is_err() && expelled.is_err(), "they were answered while nothing could be written");
    drop(release);

    let mut events = vec![shown(&following.next().await), shown(&following.next().await)];
    events.sort();
    assert_eq!(events, ["CP-1 Removed 1", "bob removed=true"]);
    until(async || bob.clone().list(ListIdentitiesRequest::default()).await.is_err()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_since_a_revision_is_sent_then_each_as_it_is_made_spec_1_2() {
    let mut network = RegistryNetwork::start().await;
    network.enrolled("CP-1").await;
    network.enrolled("CP-2").await;
    let mut following = follow(&network, 0, vec![]).await;
    let (events, _) = following.synchronised().await;
    assert_eq!(events.iter().map(shown).collect::<Vec<_>>(), ["CP-1 Enrolled 1", "CP-2 Enrolled 1"]);

    let remove = RemoveRequest { request_id: request_id(), kind: Kind::ChargingPoint as i32, id: "CP-1".into() };
    network.operator().remove(remove).await.unwrap();
    let removed = following.next().await;
    assert_eq!(shown(&removed), "CP-1 Removed 1");
    let remove = RemoveOperatorRequest { request_id: request_id(), name: "bob".into(), force: false };
    network.operators().remove(remove).await.unwrap();
    assert_eq!(shown(&following.next().await), "bob removed=true");
    drop(following);

    network.restart().await;
    network.enrolled("CP-3").await;
    let mut resumed = follow(&network, removed.revision, vec![]).await;
    let (events, revision) = resumed.synchronised().await;
    assert_eq!(events.iter().map(shown).collect::<Vec<_>>(), ["bob removed=true", "CP-3 Enrolled 1"]);
    assert_eq!(follow(&network, revision, vec![]).await.synchronised().await.0, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_central_that_has_nothing_more_to_say_still_hears_every_change() {
    let network = RegistryNetwork::start().await;
    let mut following = follow(&network, 0, vec![]).await;
    following.synchronised().await;
    following.tell = None;
    network.enrolled("CP-1").await;
    assert_eq!(shown(&following.next().await), "CP-1 Enrolled 1");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pins_are_centrals_last_report_and_survive_a_restart_spec_4_4() {
    let mut network = RegistryNetwork::start().await;
    let following = follow(&network, 0, vec![vec![1; 32]]).await;
    following
        .tell
        .as_ref()
        .unwrap()
        .send(WatchRequest { since_revision: 0, link_keys: vec![vec![2; 32], vec![1; 32]] })
        .await
        .unwrap();
    let pins =
        async |network: &RegistryNetwork| network.operator().pins(PinsRequest {}).await.unwrap().into_inner().pins;
    while pins(&network).await != [vec![2; 32], vec![1; 32]] {
        tokio::task::yield_now().await;
    }
    drop(following);
    network.restart().await;
    assert_eq!(pins(&network).await, [vec![2; 32], vec![1; 32]]);
    report(&network, vec![]).await;
    assert_eq!(pins(&network).await.len(), 2, "saying nothing changes nothing");

    let (tell, requests) = mpsc::channel(1);
    tell.send(WatchRequest { since_revision: 0, link_keys: vec![vec![1; 31]] }).await.unwrap();
    let refused = network.central().watch(ReceiverStream::new(requests)).await.unwrap_err();
    assert_eq!(reason(&refused), "INVALID");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_registry_is_not_held_up_by_those_who_follow() {
    let network = RegistryNetwork::start().await;
    let mut following = follow(&network, 0, vec![]).await;
    following.synchronised().await;
    tokio::time::timeout(Duration::from_secs(10), network.stop()).await.expect("stopped in time");
}
