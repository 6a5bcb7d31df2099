use super::*;

fn kek(id: &str) -> KeyEncryption {
    KeyEncryption::parse(&KeyEncryption::generate(id)).unwrap()
}

fn key_row(kek: &KeyEncryption, key_no: i64, state: KeyState) -> KeyRow {
    let (wrapped, kek_id) = kek.wrap("charging-point/CP-1", key_no, &[7; 32]);
    KeyRow {
        holder: "charging-point/CP-1".into(),
        key_no,
        incarnation: 1,
        state: state.into(),
        wrapped: Some(wrapped),
        kek_id,
        granted_at_ms: 1,
        expires_at_ms: 100,
        granted_running_ms: 1,
        changed_at_ms: 1,
    }
}

#[test]
fn a_wrapped_key_opens_in_its_own_row_alone() {
    let kek_one = kek("k1");
    let row = key_row(&kek_one, 1, KeyState::Active);
    assert_eq!(*kek_one.unwrap(&row).unwrap(), [7; 32]);
    for other in [
        KeyRow { key_no: 2, ..row.clone() },
        KeyRow { holder: "charging-point/CP-2".into(), ..row.clone() },
        KeyRow {
            wrapped: row
                .wrapped
                .as_ref()
                .map(|text| text.replace(&text[30..31], if &text[30..31] == "0" { "1" } else { "0" })),
            ..row.clone()
        },
    ] {
        assert!(matches!(kek_one.unwrap(&other), Err(KeyError::Broken { .. })));
    }
    assert!(matches!(kek("k2").unwrap(&row), Err(KeyError::UnknownKek { .. })));
    assert!(matches!(kek("k1").unwrap(&row), Err(KeyError::Broken { .. })), "another key under the same id");
    assert!(matches!(kek_one.unwrap(&KeyRow { wrapped: None, ..row.clone() }), Err(KeyError::Erased { .. })));
    assert!(!format!("{row:?} {kek_one:?}").contains(row.wrapped.as_deref().unwrap()));
}

#[test]
fn a_key_encryption_key_can_be_rolled_spec_10_7() {
    let (old, new) = (KeyEncryption::generate("k1"), KeyEncryption::generate("k2"));
    let before = KeyEncryption::parse(&old).unwrap();
    let row = key_row(&before, 1, KeyState::Active);
    let both = KeyEncryption::parse(&format!("# rolled\n{}{}", *new, *old)).unwrap();
    assert_eq!(both.current(), "k2");
    let rolled = both.rewrap(&row).unwrap().unwrap();
    assert_eq!(both.rewrap(&rolled).unwrap(), None);
    assert_eq!(*KeyEncryption::parse(&new).unwrap().unwrap(&rolled).unwrap(), [7; 32]);
    for bad in ["", "k1", "k1:abc", "# nothing\n"] {
        assert!(KeyEncryption::parse(bad).is_err(), "{bad}");
    }
}

on_both! {
    async fn key_material_is_erased_when_revoked_or_deleted_spec_4_7(store: TestStore) {
        let kek = kek("k1");
        for (key_no, gone) in [(1, KeyState::Revoked), (2, KeyState::Deleted)] {
            let row = key_row(&kek, key_no, KeyState::Active);
            store.unguarded([RowWrite::Key(row.clone())]).await.unwrap();
            store.unguarded([RowWrite::Key(KeyRow { state: gone.into(), ..row.clone() })]).await.unwrap();
            let found = store.read(move |c| KeyRow::find(c, "charging-point/CP-1", key_no)).await.unwrap();
            assert_eq!((found.state, found.wrapped), (gone.into(), None));
            if let Some(path) = store.url.strip_prefix("sqlite:") {
                store.sql("SELECT 1").await;
                let mut conn = store.database.inner.establish(crate::connection::Use::Write, std::time::Duration::from_secs(2)).unwrap();
                conn.execute("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
                let bytes = std::fs::read(path).unwrap();
                let secret = row.wrapped.as_deref().unwrap().as_bytes();
                assert!(!bytes.windows(secret.len()).any(|window| window == secret), "it left the file too");
            }
        }
        assert_eq!(store.read(KeyRow::usable).await, vec![]);
        assert_eq!(store.read(|c| KeyRow::last_no(c, "charging-point/CP-1")).await, 2);
    }

    async fn a_holder_has_one_active_key_design_3(store: TestStore) {
        let kek = kek("k1");
        let (first, second) = (key_row(&kek, 1, KeyState::Active), key_row(&kek, 2, KeyState::Active));
        store.unguarded([RowWrite::Key(first.clone())]).await.unwrap();
        assert!(matches!(store.unguarded([RowWrite::Key(second.clone())]).await, Err(CommitRefusal::Rejected(_))));
        let retired = KeyRow { state: KeyState::Retired.into(), ..first };
        store.unguarded([RowWrite::Key(retired.clone()), RowWrite::Key(second.clone())]).await.unwrap();
        assert_eq!(store.read(KeyRow::usable).await, vec![retired, second]);
    }

    async fn a_ticket_is_due_until_its_driver_acknowledges_it_spec_3_9(store: TestStore) {
        let mut point = store.owned("CP-1").await;
        let row = session("s1", "CP-1", Some("ada"), 4);
        store.submit(&mut point, [RowWrite::OpenSession(row.clone()), RowWrite::Ticket(ticket(&row, 10))]).await.unwrap();
        let acknowledge = |driver: &str, at_ms| RowWrite::TicketAcknowledged { session_id: "s1".into(), driver_id: driver.into(), at_ms };
        store.unguarded([acknowledge("bob", 5)]).await.unwrap();
        assert_eq!(store.read(|c| TicketRow::due(c, "ada", 9)).await.len(), 1, "it is not bob's");
        store.unguarded([acknowledge("ada", 6)]).await.unwrap();
        store.unguarded([acknowledge("ada", 7)]).await.unwrap();
        let (due, found) = store.read(|c| Ok((TicketRow::due(c, "ada", 9)?, TicketRow::find(c, "s1")?))).await;
        assert_eq!((due.len(), found.unwrap().acknowledged_at_ms), (0, Some(6)));
    }

    async fn a_ticket_is_read_as_it_was_billed_with_its_corrections_and_never_where_it_is_damaged_spec_3_8(store: TestStore) {
        let mut point = store.owned("CP-1").await;
        for n in [1, 2] {
            let row = session(&format!("s{n}"), "CP-1", Some("ada"), 4);
            store.submit(&mut point, [RowWrite::OpenSession(row.clone()), RowWrite::Ticket(ticket(&row, 10 * n))]).await.unwrap();
        }
        let correction = CorrectionRow { session_id: "s2".into(), number: 1, settled_wh: 60, ..Default::default() };
        store.unguarded([RowWrite::Correction(correction)]).await.unwrap();
        let (rows, tickets) = store.read(|c| {
            let rows = TicketRow::due(c, "ada", 9)?;
            let tickets = TicketRow::tickets(c, &rows)?;
            Ok((rows, tickets))
        }).await;
        let stated = |t: &Ticket| (t.session_id.clone(), t.place.clone(), t.energy_wh, t.corrections.len());
        let expected = [("s1".into(), "Main street".into(), 10, 0), ("s2".into(), "Main street".into(), 20, 1)];
        assert_eq!(tickets.iter().map(stated).collect::<Vec<_>>(), expected);
        let exchanged = TicketRow { document: rows[1].document.clone(), ..rows[0].clone() };
        for damaged in [exchanged, TicketRow { document: "zz".into(), ..rows[0].clone() }] {
            assert!(damaged.ticket().unwrap_err().to_string().contains("the ticket of session s1 is damaged"));
        }
    }

    async fn a_ticket_is_corrected_by_new_entries_that_count_in_every_sum_spec_3_8(store: TestStore) {
        let mut point = store.owned("CP-1").await;
        for (n, driver) in [(1, Some("ada")), (2, Some("ada")), (3, None)] {
            let row = session(&format!("s{n}"), "CP-1", driver, 4);
            let bill = TicketRow { billed_at_ms: n, disputed_wh: 100, ..ticket(&row, 1000 * n) };
            store.submit(&mut point, [RowWrite::OpenSession(row), RowWrite::Ticket(bill)]).await.unwrap();
        }
        let correction = CorrectionRow {
            session_id: "s1".into(), number: 1, operator: "eve".into(), reason: "meter".into(), energy_delta_wh: -500,
            amount_delta_minor: -50, settled_wh: 60, ..Default::default()
        };
        store.unguarded([RowWrite::Correction(correction.clone())]).await.unwrap();
        store.unguarded([RowWrite::Correction(CorrectionRow { number: 2, ..correction })]).await.unwrap();
        let late = DiscrepancyRow { session_id: "s3".into(), cp_id: "CP-1".into(), energy_delta_wh: 7, ..Default::default() };
        store.unguarded([RowWrite::Discrepancy(late.clone())]).await.unwrap();
        store.unguarded([RowWrite::Discrepancy(DiscrepancyRow { energy_delta_wh: 9, ..late })]).await.unwrap();
        let numbers = store.read(|c| CorrectionRow::of(c, &["s1", "s2"])).await;
        assert_eq!(numbers.iter().map(|row| row.number).collect::<Vec<_>>(), [1, 2]);
        let (totals, nobody) = store.read(|c| Ok((TicketTotals::of_driver(c, "ada")?, TicketTotals::of_driver(c, "bob")?))).await;
        assert_eq!(totals, TicketTotals { sessions: 2, energy_wh: 2000, amount_minor: 200 });
        assert_eq!(nobody, TicketTotals::default());
        let sums = store.read(|c| Ok((StatisticRow::list(c, StatisticsBy::ChargingPoint, 0, 0)?, StatisticRow::list(c, StatisticsBy::Driver, 2, 3)?))).await;
        assert_eq!(sums.0, [StatisticRow {
            id: "CP-1".into(), currency: "EUR".into(), sessions: 3, energy_wh: 5000, amount_minor: 500, disputed_wh: 180, discrepancy_wh: 7,
        }]);
        assert_eq!(sums.1, [StatisticRow {
            id: "ada".into(), currency: "EUR".into(), sessions: 1, energy_wh: 2000, amount_minor: 200, disputed_wh: 100, discrepancy_wh: 0,
        }]);
    }

    async fn a_correction_that_was_decided_upon_what_has_changed_is_refused_spec_3_8(store: TestStore) {
        let mut point = store.owned("CP-1").await;
        let row = session("s1", "CP-1", Some("ada"), 4);
        store.submit(&mut point, [RowWrite::OpenSession(row.clone()), RowWrite::Ticket(ticket(&row, 1000))]).await.unwrap();
        let seen: Vec<_> = store.read(|c| CorrectionRow::of(c, &["s1"])).await.into_iter().map(Into::into).collect();
        let number = CorrectionRow::next_number(&seen);
        let settle = |n: i32| {
            let (session_id, settled_wh) = ("s1".into(), 60);
            let order = once("operator/eve", &format!("r{n}"));
            let row = CorrectionRow { session_id, number, settled_wh, ..Default::default() };
            store.unguarded([RowWrite::Once(order), RowWrite::Correction(row), RowWrite::Audit(entry("SETTLED", "CP-1"))])
        };
        let answers = futures::future::join_all((0..20).map(settle)).await;
        assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1);
        let refused = answers.iter().flat_map(|answer| answer.as_ref().err());
        assert!(refused.into_iter().all(|refusal| *refusal == CommitRefusal::CorrectedMeanwhile), "{answers:?}");
        let (rows, orders) = store.read(|c| Ok((CorrectionRow::of(c, &["s1"])?, (0..20).filter_map(|n| OnceRow::find(c, "operator/eve", &format!("r{n}")).unwrap()).count()))).await;
        assert_eq!((rows.len(), orders), (1, 1), "nothing of a refused turn is left");
    }

    async fn sums_beyond_all_measure_are_the_largest_there_is_spec_7_1(store: TestStore) {
        let mut point = store.owned("CP-1").await;
        let row = session("s1", "CP-1", Some("ada"), 4);
        store.submit(&mut point, [RowWrite::OpenSession(row.clone()), RowWrite::Ticket(ticket(&row, 1000))]).await.unwrap();
        let (energy_delta_wh, amount_delta_minor) = (i64::MAX, i64::MAX);
        let row = CorrectionRow { session_id: "s1".into(), number: 1, energy_delta_wh, amount_delta_minor, ..Default::default() };
        store.unguarded([RowWrite::Correction(row)]).await.unwrap();
        let (totals, sums) = store.read(|c| Ok((TicketTotals::of_driver(c, "ada")?, StatisticRow::list(c, StatisticsBy::Driver, 0, 0)?))).await;
        assert_eq!((totals.energy_wh, totals.amount_minor), (i64::MAX, i64::MAX));
        assert_eq!((sums[0].energy_wh, sums[0].amount_minor), (i64::MAX, i64::MAX));
    }

    async fn lists_come_in_pages_that_later_rows_do_not_shift(store: TestStore) {
        let mut point = store.owned("CP-1").await;
        for n in 0..7 {
            let row = SessionRow { reserved_at_ms: n / 2, ..session(&format!("s{n}"), "CP-1", Some("ada"), 4) };
            let bill = TicketRow { billed_at_ms: n / 2, ..ticket(&row, 1) };
            store.submit(&mut point, [RowWrite::OpenSession(row), RowWrite::Ticket(bill), RowWrite::Audit(entry("END", "CP-1"))]).await.unwrap();
        }
        let (mut sessions, mut tickets, mut audit, mut token) = (vec![], vec![], vec![], [const { String::new() }; 3]);
        for round in 0..4 {
            let [a, b, c] = token.clone().map(|token| PageRequest { size: 2, token });
            let (one, two, three) = store.read(move |conn| Ok((
                SessionRow::list(conn, &SessionFilter { driver_id: "ada".into(), ..Default::default() }, &a)?,
                TicketRow::list(conn, &TicketFilter { cp_id: "CP-1".into(), until_ms: 100, ..Default::default() }, &b)?,
                AuditRow::list(conn, &AuditFilter { action: "END".into(), ..Default::default() }, AuditOrder::NewestFirst, &c)?,
            ))).await;
            assert_eq!([&one.next, &two.next, &three.next].map(|next| next.is_empty()), [round == 3; 3]);
            sessions.extend(one.rows.into_iter().map(|row| row.session_id));
            tickets.extend(two.rows.into_iter().map(|row| row.session_id));
            audit.extend(three.rows.into_iter().map(|row| row.number));
            token = [one.next, two.next, three.next];
            if round == 0 {
                let late = SessionRow { reserved_at_ms: 9, ..session("late", "CP-1", Some("ada"), 5) };
                store.submit(&mut point, [RowWrite::OpenSession(late)]).await.unwrap();
            }
        }
        assert_eq!(sessions, ["s6", "s5", "s4", "s3", "s2", "s1", "s0"]);
        assert_eq!(tickets, sessions);
        assert_eq!(audit, [7, 6, 5, 4, 3, 2, 1]);
        let foreign = PageRequest { size: 2, token: "x".into() };
        assert!(store.database.read("test", move |c| SessionRow::list(c, &SessionFilter::default(), &foreign)).await.is_err());
    }

    async fn a_late_answer_is_no_news_to_the_mirror_spec_7_4(store: TestStore) {
        let row = |incarnation, state, revision| {
            MirroredIdentityRow { kind: 2, id: "D1".into(), state, incarnation, revision, ..Default::default() }
        };
        let steps = [
            (row(1, 1, 0), true), (row(1, 3, 5), true), (row(1, 1, 5), false), (row(1, 2, 5), false),
            (row(2, 1, 5), true), (row(1, 3, 5), false), (row(2, 2, 5), true), (row(2, 1, 5), false),
        ];
        for (step, is_news) in steps {
            store.unguarded([RowWrite::Identity(step.clone())]).await.unwrap();
            let known = store.read(|c| Ok(MirroredIdentityRow::find(c, 2, "D1")?.unwrap())).await;
            assert_eq!(known == step, is_news, "{step:?}");
        }
    }

    async fn the_mirror_of_identities_never_goes_back(store: TestStore) {
        let identity = MirroredIdentityRow { kind: 1, id: "CP-1".into(), state: 1, city: "Graz".into(), revision: 5, ..Default::default() };
        let operator = MirroredOperatorRow { name: "ada".into(), role: 2, removed: true, revision: 6 };
        store.unguarded([RowWrite::Identity(identity.clone()), RowWrite::Operator(operator.clone()), RowWrite::Mirrored(6)]).await.unwrap();
        let stale = [
            RowWrite::Identity(MirroredIdentityRow { state: 3, revision: 4, ..identity.clone() }),
            RowWrite::Operator(MirroredOperatorRow { removed: false, revision: 5, ..operator.clone() }),
            RowWrite::Mirrored(4),
        ];
        store.unguarded(stale).await.unwrap();
        let driver = MirroredIdentityRow { kind: 2, revision: 7, ..identity.clone() };
        store.unguarded([RowWrite::Identity(driver.clone()), RowWrite::Mirrored(7)]).await.unwrap();
        let found = store.read(|c| Ok((MirroredIdentityRow::all(c)?, MirroredOperatorRow::all(c)?, MirroredIdentityRow::revision(c)?))).await;
        assert_eq!(found, (vec![identity, driver], vec![operator], 7));
    }

    async fn events_wait_in_order_and_go_after_their_retention_spec_5_4(store: TestStore) {
        let mut point = store.owned("CP-1").await;
        let event = |id: &str, cp: &str, at_ms| RowWrite::Event(OutboxEvent { event_id: id.into(), cp_id: cp.into(), kind: "k".into(), at_ms, body: "{}".into() });
        store.submit(&mut point, [event("a", "CP-1", 1), event("b", "CP-1", 2), event("x", "CP-2", 2)]).await.unwrap();
        let mut point = store.claimed("CP-1", "central-1").await;
        store.submit(&mut point, [event("c", "CP-1", 3)]).await.unwrap();
        let waiting = store.read(|c| OutboxRow::batch(c, "central-1", &[], 10)).await;
        assert_eq!(waiting.iter().map(|row| row.event_id.as_str()).collect::<Vec<_>>(), ["a", "b", "x", "c"]);
        assert_eq!(waiting[2].epoch, 0, "there is no CP-2");
        assert!(waiting[0].epoch < waiting[3].epoch && waiting[3].epoch == point.epoch);
        let held = store.read(|c| OutboxRow::batch(c, "central-1", &["CP-1".to_owned()], 10)).await;
        assert_eq!(held.iter().map(|row| row.event_id.as_str()).collect::<Vec<_>>(), ["x"]);
        let (writer, first) = (waiting[0].writer.clone(), waiting[0].sequence);
        store.unguarded([RowWrite::Published { writer, first, last: first, at_ms: 9 }]).await.unwrap();
        assert_eq!(store.read(OutboxRow::lag).await, OutboxLag { events: 3, oldest_at_ms: Some(2) });
        let pruned: Result<_, ()> = store.database.transaction("test", |c| Ok((OutboxRow::prune(c, 3, false)?, OutboxRow::prune(c, 3, true)?))).await.unwrap();
        assert_eq!(pruned, Ok((1, 2)), "the published one, and without a broker the others");
    }
}
