use super::*;

on_both! {
    async fn a_turn_is_applied_whole_and_raises_the_version(store: TestStore) {
        let mut point = store.owned("CP-1").await;
        let before = point.version;
        let row = session("s1", "CP-1", Some("ada"), 1);
        let done = store.submit(&mut point, [RowWrite::OpenSession(row.clone()), RowWrite::Audit(entry("GRANT", "CP-1"))]).await.unwrap();
        assert_eq!((done.epoch, done.version), (point.epoch, before + 1));
        assert_eq!(done.audit.len(), 1);
        let found = store.read(|c| Ok((SessionRow::find(c, "s1")?, ChargingPointRow::find(c, "CP-1")?))).await;
        assert_eq!(found.0, Some(row));
        assert_eq!(found.1.map(|cp| cp.version), Some(point.version));
    }

    async fn a_refused_turn_leaves_nothing_and_its_neighbours_go_on_design_3(store: TestStore) {
        let mut points = Vec::new();
        for n in 0..40 {
            points.push(store.owned(&format!("CP-{n}")).await);
        }
        // Every second one wants the same driver; all are submitted at once, so that they share groups.
        let turns = points.iter().enumerate().map(|(n, point)| {
            let driver = if n % 2 == 0 { "busy".to_owned() } else { format!("driver-{n}") };
            let row = session(&format!("s{n}"), &point.cp_id, Some(&driver), 1);
            let (event, audit) = (OutboxEvent { event_id: format!("e{n}"), cp_id: point.cp_id.clone(), ..Default::default() }, entry("GRANT", &point.cp_id));
            store.committer.submit(turn(Some(point.guard()), [RowWrite::Audit(audit), RowWrite::Event(event), RowWrite::OpenSession(row)]))
        });
        let answers = futures::future::join_all(turns).await;
        let granted = answers.iter().filter(|answer| answer.is_ok()).count();
        assert_eq!(granted, 21, "twenty drivers of their own, and the busy one once");
        assert!(answers.iter().flat_map(|answer| answer.as_ref().err()).all(|refusal| *refusal == CommitRefusal::DriverBusy));
        let (open, cps, lag, page) = store.read(|c| Ok((
            SessionRow::unsettled(c)?,
            ChargingPointRow::all(c)?,
            OutboxRow::lag(c)?.events,
            AuditRow::list(c, &AuditFilter::default(), AuditOrder::OldestFirst, &PageRequest::default())?,
        ))).await;
        assert_eq!((open.len(), lag, page.rows.len()), (granted, 21, 21), "refusals dropped out before numbering");
        for (point, answer) in points.iter().zip(&answers) {
            let now = cps.iter().find(|cp| cp.cp_id == point.cp_id).unwrap().version;
            assert_eq!(now, point.version + i64::from(answer.is_ok()), "a refused turn does not raise the version");
        }
        let numbers: Vec<_> = page.rows.iter().map(|row| row.number).collect();
        assert_eq!(numbers, (1..=21).collect::<Vec<_>>());
    }

    async fn an_entry_is_told_though_nobody_waits_for_its_turn_any_more_spec_8_3(store: TestStore) {
        let mut told = store.committer.follow();
        let given_up = futures::FutureExt::now_or_never(store.unguarded([RowWrite::Audit(entry("GRANT", "CP-1"))]));
        assert_eq!(given_up, None, "it is not on disk before it is waited for");
        let row = tokio::time::timeout(std::time::Duration::from_secs(60), told.recv()).await.unwrap().unwrap();
        let page = store.read(|c| AuditRow::list(c, &AuditFilter::default(), AuditOrder::OldestFirst, &PageRequest::default())).await;
        assert_eq!(page.rows, [(*row).clone()], "and it is on disk when it is told");
    }

    async fn a_zombie_is_fenced_spec_4_9(store: TestStore) {
        let mut old = store.owned("CP-1").await;
        let mut new = store.claimed("CP-1", "central-2").await;
        assert!(new.epoch > old.epoch);
        let ticketless = session("s1", "CP-1", None, 1);
        assert_eq!(store.submit(&mut old, [RowWrite::OpenSession(ticketless.clone())]).await, Err(CommitRefusal::Fenced));
        assert!(store.submit(&mut new, [RowWrite::OpenSession(ticketless)]).await.is_ok());
        let mut stale = OwnedPoint { version: new.version - 1, ..new.clone() };
        assert_eq!(store.submit(&mut stale, []).await, Err(CommitRefusal::Fenced), "another turn came between");
    }

    async fn a_claim_may_ask_for_the_owner_it_saw_design_3(store: TestStore) {
        store.owned("CP-1").await;
        let claim = |expected: &str| {
            let guard = Guard::Takeover { cp_id: "CP-1".into(), owner: "central-2".into(), expected_owner: Some(expected.into()) };
            store.committer.submit(turn(Some(guard), []))
        };
        assert_eq!(claim("").await, Err(CommitRefusal::Fenced), "central-1 owns it");
        assert!(claim("central-1").await.is_ok());
        let unknown = Guard::Takeover { cp_id: "CP-9".into(), owner: "central-2".into(), expected_owner: None };
        assert_eq!(store.committer.submit(turn(Some(unknown), [])).await, Err(CommitRefusal::Fenced));
    }

    async fn a_raised_generation_orders_before_every_epoch_spec_10_5(store: TestStore) {
        let before = store.owned("CP-1").await;
        assert_eq!(before.epoch >> 32, 1);
        let raised: Result<i64, ()> = store.database.transaction("test", |c| Ok(raise_generation(c, 0, 0)?)).await.unwrap();
        assert_eq!(raised, Ok(2));
        // A committer reads it when it opens its connection, as after the restart that follows a restore.
        let committer = Committer::start(&store.database, "central-2", CommitterSettings::default()).unwrap();
        let guard = Guard::Takeover { cp_id: "CP-1".into(), owner: "central-2".into(), expected_owner: None };
        let after = committer.submit(turn(Some(guard), [])).await.unwrap();
        assert_eq!(after.epoch, (2 << 32) + 1);
    }

    async fn a_driver_has_one_open_session_in_the_whole_network_spec_3_2(store: TestStore) {
        let (mut one, mut two) = (store.owned("CP-1").await, store.owned("CP-2").await);
        let first = session("s1", "CP-1", Some("ada"), 1);
        store.submit(&mut one, [RowWrite::OpenSession(first.clone())]).await.unwrap();
        let second = RowWrite::OpenSession(session("s2", "CP-2", Some("ada"), 1));
        assert_eq!(store.submit(&mut two, [second.clone()]).await, Err(CommitRefusal::DriverBusy));
        assert_eq!(
            store.submit(&mut one, [RowWrite::OpenSession(session("s3", "CP-1", Some("bob"), 1))]).await,
            Err(CommitRefusal::ChargingPointBusy)
        );
        // Settling frees the driver (SPEC 3.8).
        store.submit(&mut one, [RowWrite::UpdateSession(SessionRow { state: 3, ..first })]).await.unwrap();
        store.submit(&mut two, [second]).await.unwrap();
        let own = [RowWrite::OpenSession(session("s4", "CP-1", None, 1))];
        store.submit(&mut one, own).await.expect("a charging point's own account is nobody's driver");
    }

    async fn a_repeated_request_gets_the_first_answer_spec_3_2(store: TestStore) {
        let mut point = store.owned("CP-1").await;
        let first = once("driver/ada", "r1");
        store.unguarded([RowWrite::Once(first.clone())]).await.unwrap();
        let again = OnceRow { answer: "02".into(), at_ms: 9, ..first.clone() };
        let writes = [RowWrite::OpenSession(session("s1", "CP-1", Some("ada"), 1)), RowWrite::Once(again.clone())];
        assert_eq!(store.submit(&mut point, writes).await, Err(CommitRefusal::Repeated(Box::new(first.clone()))));
        assert_eq!(store.read(|c| SessionRow::find(c, "s1")).await, None, "the whole turn was dropped");
        let other = OnceRow { caller: "driver/bob".into(), ..again };
        store.unguarded([RowWrite::Once(other)]).await.expect("an id is unique for its caller only");
    }

    async fn another_request_under_a_used_id_is_refused_in_words_spec_7_3(store: TestStore) {
        let first = once("operator/ada", "r1");
        store.unguarded([RowWrite::Once(first.clone())]).await.unwrap();
        for (other, words) in [
            (OnceRow { digest: "cd".into(), ..first.clone() }, "was used for Stop with other content; choose another"),
            (OnceRow { method: "Resume".into(), ..first.clone() }, "was used for Stop; choose another"),
        ] {
            let refused = store.unguarded([RowWrite::Once(other), RowWrite::Audit(entry("DONE", "CP-1"))]).await.unwrap_err();
            assert!(matches!(&refused, CommitRefusal::RequestIdReused(_)) && refused.to_string().contains(words), "{refused}");
        }
        let audited = store.read(|c| AuditRow::list(c, &AuditFilter::default(), AuditOrder::OldestFirst, &PageRequest::default())).await;
        assert!(audited.rows.is_empty(), "nothing of a refused call is left");
    }

    async fn of_two_orders_with_one_subject_the_later_one_counts_spec_7_3(store: TestStore) {
        store.unguarded([order("o1", "Stop", &["CP-1", "CP-2", "CP-3"])]).await.unwrap();
        store.unguarded([settled("o1", "CP-1", ItemOutcome::Done)]).await.unwrap();
        let later = store.unguarded([order("o2", "Stop", &["CP-1", "CP-2"]), order("o3", "SetPrice", &["CP-3"])]).await.unwrap();
        assert_eq!(later.audit.iter().map(|row| row.object.as_str()).collect::<Vec<_>>(), ["charging-point/CP-2"]);
        assert_eq!(store.unguarded([settled("o1", "CP-2", ItemOutcome::Done)]).await, Err(CommitRefusal::OrderItemSettled));
        let (counts, pending, unfinished) = store.read(|c| Ok((
            OrderCounts::of(c, "o1")?, OrderItemRow::pending(c, "o1")?, OrderRow::unfinished(c)?.len(),
        ))).await;
        assert_eq!(counts, OrderCounts { pending: 1, done: 1, overtaken: 1, ..Default::default() });
        assert_eq!((counts.matched(), counts.left(), pending, unfinished), (3, 2, vec!["CP-3".to_owned()], 3));
    }

    async fn an_item_is_settled_in_the_turn_of_its_charging_point_and_only_once_spec_7_3(store: TestStore) {
        let mut point = store.owned("CP-1").await;
        store.unguarded([order("o1", "Stop", &["CP-1"])]).await.unwrap();
        let stop = [settled("o1", "CP-1", ItemOutcome::Unchanged), RowWrite::Audit(entry("UNCHANGED", "CP-1"))];
        store.submit(&mut point, stop.clone()).await.unwrap();
        let before = point.version;
        assert_eq!(store.submit(&mut point, stop).await, Err(CommitRefusal::OrderItemSettled));
        let version = store.read(|c| ChargingPointRow::find(c, "CP-1")).await.map(|cp| cp.version);
        assert_eq!(version, Some(before), "a turn that comes too late leaves nothing");
    }

    async fn a_cancelled_order_keeps_what_it_did_and_leaves_the_rest_spec_7_3(store: TestStore) {
        store.unguarded([order("o1", "Stop", &["CP-1", "CP-2"])]).await.unwrap();
        store.unguarded([settled("o1", "CP-1", ItemOutcome::Failed)]).await.unwrap();
        store.unguarded([RowWrite::CancelOrder("o1".into())]).await.unwrap();
        assert_eq!(store.unguarded([RowWrite::CancelOrder("o1".into())]).await, Err(CommitRefusal::OrderItemSettled));
        let counts = store.read(|c| OrderCounts::of(c, "o1")).await;
        assert_eq!(counts, OrderCounts { failed: 1, cancelled: 1, ..Default::default() });
        let pruned: Result<_, ()> = store.database.transaction("test", |c| Ok(OrderRow::prune(c, 100)?)).await.unwrap();
        assert_eq!((pruned, store.read(|c| OrderRow::find(c, "o1")).await), (Ok(1), None));
    }

    async fn there_is_exactly_one_ticket_per_session_spec_3_7(store: TestStore) {
        let mut point = store.owned("CP-1").await;
        let open = session("s1", "CP-1", Some("ada"), 2);
        store.submit(&mut point, [RowWrite::OpenSession(open.clone())]).await.unwrap();
        let billed = SessionRow { state: 4, ..open.clone() };
        let bill = |wh| [RowWrite::UpdateSession(billed.clone()), RowWrite::Ticket(ticket(&open, wh))];
        store.submit(&mut point, bill(1000)).await.unwrap();
        let before = point.version;
        assert_eq!(store.submit(&mut point, bill(2000)).await, Err(CommitRefusal::AlreadyBilled));
        let (found, version) = store.read(|c| Ok((TicketRow::find(c, "s1")?, ChargingPointRow::find(c, "CP-1")?))).await;
        assert_eq!(found.map(|ticket| ticket.energy_wh), Some(1000));
        assert_eq!(version.map(|cp| cp.version), Some(before));
    }

    async fn a_turn_that_breaks_a_constraint_falls_alone(store: TestStore) {
        let point = store.owned("CP-1").await;
        let good = store.committer.submit(turn(Some(point.guard()), [RowWrite::Audit(entry("GOOD", "CP-1"))]));
        let bad = store.unguarded([RowWrite::UpdateSession(session("nowhere", "CP-1", None, 1))]);
        let foreign = store.unguarded([RowWrite::Ticket(ticket(&session("unheard", "CP-1", None, 4), 1))]);
        let (good, bad, foreign) = futures::join!(good, bad, foreign);
        assert!(good.is_ok());
        assert!(matches!(bad, Err(CommitRefusal::Rejected(_))), "{bad:?}");
        assert!(matches!(foreign, Err(CommitRefusal::Rejected(_))), "{foreign:?}");
    }

    async fn two_committers_under_different_names_race_without_harm(store: TestStore) {
        let other = Committer::start(&store.database, "central-2", CommitterSettings::default()).unwrap();
        let mut points = Vec::new();
        for n in 0..30 {
            points.push(store.owned(&format!("CP-{n}")).await);
        }
        let race = points.iter().enumerate().map(|(n, point)| {
            let committer = if n % 2 == 0 { &store.committer } else { &other };
            // Three drivers for thirty charging points, wanted in opposite orders by both.
            let driver = if n % 2 == 0 { n % 3 } else { (30 - n) % 3 };
            let row = session(&format!("s{n}"), &point.cp_id, Some(&format!("driver-{driver}")), 1);
            committer.submit(turn(Some(point.guard()), [RowWrite::OpenSession(row), RowWrite::Audit(entry("GRANT", &point.cp_id))]))
        });
        let answers = futures::future::join_all(race).await;
        assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 3);
        assert!(answers.iter().flat_map(|answer| answer.as_ref().err()).all(|refusal| *refusal == CommitRefusal::DriverBusy), "{answers:?}");
    }
}
