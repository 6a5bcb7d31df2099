use std::path::PathBuf;

use super::*;
use crate::audit::{AuditKey, Checkpoint, CheckpointError, Checkpoints, Verification, verify};

impl TestStore {
    pub(super) async fn write_entries(&self, count: usize) {
        for n in 0..count {
            self.unguarded([RowWrite::Audit(entry("STOP", &format!("CP-{n}")))]).await.unwrap();
        }
    }

    pub(super) fn checkpoint_file(&self) -> PathBuf {
        self.folder.path().join("checkpoints.jsonl")
    }

    pub(super) fn checkpoints(&self, key: &str) -> Checkpoints {
        Checkpoints::open(&self.checkpoint_file(), AuditKey::parse(key).unwrap()).unwrap()
    }

    pub(super) async fn checkpoint(&self, key: &str) -> Option<Checkpoint> {
        self.checkpoints(key).write(&self.database, 1).await.unwrap()
    }

    pub(super) async fn verified(&self, key: &str) -> Verification {
        verify(&self.database, &self.checkpoint_file(), &[AuditKey::parse(key).unwrap().public()]).await.unwrap()
    }

    pub(super) async fn first_bad(&self, key: &str) -> Option<(String, i64)> {
        self.verified(key).await.first_bad.map(|bad| (bad.writer, bad.number))
    }
}

const TEXTS: [&str; 10] =
    ["writer", "actor", "address", "address_salt", "address_hash", "action", "object", "parameters", "outcome", "hash"];

on_both! {
    async fn an_untouched_audit_is_intact_and_says_what_no_checkpoint_covers_spec_8_2(store: TestStore) {
        let key = AuditKey::generate();
        store.write_entries(5).await;
        drop(store.checkpoints(&key));
        let found = store.verified(&key).await;
        assert_eq!((found.uncovered, found.first_bad), (5, None));
        assert!(store.checkpoint(&key).await.is_some());
        assert!(store.checkpoint(&key).await.is_none(), "nothing was written since");
        store.write_entries(3).await;
        let found = store.verified(&key).await;
        assert_eq!((found.entries, found.checkpoints, found.uncovered, found.first_bad), (8, 1, 3, None));
        store.checkpoint(&key).await.unwrap();
        assert_eq!(store.verified(&key).await.uncovered, 0);
    }

    async fn one_verification_is_under_way_at_a_time_even_where_its_caller_has_gone_spec_9(store: TestStore) {
        let alone = store.database.exclusive_reader().unwrap();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let (begin, begun) = tokio::sync::oneshot::channel();
        let caller = tokio::spawn(async move {
            let long = move |_: &mut crate::Conn| { begin.send(()).unwrap(); Ok(ended.recv().is_err()) };
            alone.read("long", long).await
        });
        begun.await.unwrap();
        caller.abort();
        assert!(caller.await.is_err());
        let verify = async || verify(&store.database, &store.checkpoint_file(), &[]).await;
        let refused = verify().await.unwrap_err();
        assert!(matches!(refused, CheckpointError::UnderWay) && refused.to_string().contains("try again"), "{refused}");
        drop(end);
        while verify().await.is_err() {
            tokio::task::yield_now().await;
        }
    }

    async fn long_lists_keep_no_look_up_waiting_spec_9(store: TestStore) {
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let ended = std::sync::Arc::new(std::sync::Mutex::new(ended));
        let lists: Vec<_> = (0..8).map(|_| {
            let (database, ended) = (store.database.clone(), ended.clone());
            tokio::spawn(async move { database.read("list", move |_| Ok(ended.lock().unwrap().recv().is_err())).await })
        }).collect();
        while store.database.idle_readers() > 0 {
            tokio::task::yield_now().await;
        }
        assert!(store.database.look_up("look up", |_| Ok(true)).await.unwrap());
        assert!(lists.iter().all(|list| !list.is_finished()));
        drop(end);
        for list in lists {
            assert!(list.await.unwrap().unwrap());
        }
    }

    async fn any_byte_of_any_column_that_changes_is_found_spec_8_2(store: TestStore) {
        let key = AuditKey::generate();
        store.write_entries(4).await;
        store.checkpoint(&key).await.unwrap();
        let row = store.read(|c| AuditRow::list(c, &AuditFilter::default(), AuditOrder::OldestFirst, &PageRequest::default())).await.rows[1].clone();
        assert_eq!(row.number, 2);
        let two = "number = 2";
        for column in TEXTS {
            let value: String = match column {
                "writer" => row.writer.clone(), "actor" => row.actor.clone(), "address" => row.address.clone().unwrap(),
                "address_salt" => row.address_salt.clone().unwrap(), "address_hash" => row.address_hash.clone(),
                "action" => row.action.clone(), "object" => row.object.clone(), "parameters" => row.parameters.clone(),
                "outcome" => row.outcome.clone(), _ => row.hash.clone(),
            };
            for at in 0..value.len() {
                let mut changed = value.clone().into_bytes();
                changed[at] = if changed[at] == b'~' { b'!' } else { b'~' };
                let changed = String::from_utf8(changed).unwrap();
                store.sql(format!("UPDATE audit SET {column} = '{changed}' WHERE {two}")).await;
                let (_, number) = store.first_bad(&key).await.unwrap_or_else(|| panic!("{column} byte {at} passed"));
                assert_eq!(number, 2, "{column} byte {at}");
                store.sql(format!("UPDATE audit SET {column} = '{value}' WHERE {two}")).await;
            }
        }
        for bit in 0..62 {
            for (column, value) in [("at_ms", row.at_ms), ("number", 2)] {
                let changed = value ^ (1 << bit);
                if column == "number" && (1..=4).contains(&changed) {
                    continue; // The primary key forbids it.
                }
                store.sql(format!("UPDATE audit SET {column} = {changed} WHERE at_ms = {} AND {two}", row.at_ms)).await;
                let (_, found) = store.first_bad(&key).await.unwrap_or_else(|| panic!("{column} bit {bit} passed"));
                assert!(found <= 2, "{column} bit {bit}: {found}");
                store.sql(format!("UPDATE audit SET {column} = {value} WHERE {column} = {changed}")).await;
            }
        }
        for erased in ["address = NULL", "address_salt = NULL", "address = NULL, address_salt = NULL"] {
            store.sql(format!("UPDATE audit SET {erased} WHERE {two}")).await;
            assert_eq!(store.first_bad(&key).await, Some(("central-1".into(), 2)), "{erased}");
            let (address, salt) = (row.address.clone().unwrap(), row.address_salt.clone().unwrap());
            store.sql(format!("UPDATE audit SET address = '{address}', address_salt = '{salt}' WHERE {two}")).await;
        }
        assert_eq!(store.first_bad(&key).await, None, "all was put back");
    }

    async fn a_dropped_entry_and_a_cut_tail_are_found_spec_8_2(store: TestStore) {
        let key = AuditKey::generate();
        store.write_entries(6).await;
        store.checkpoint(&key).await.unwrap();
        store.write_entries(2).await;
        // With the writer's row changed along, only the checkpoint knows.
        let head = |number: i64| format!("UPDATE writers SET audit_number = {number}, audit_hash = (SELECT hash FROM audit WHERE number = {number})");
        store.sql("DELETE FROM audit WHERE number = 8").await;
        assert_eq!(store.first_bad(&key).await, Some(("central-1".into(), 8)), "the writer's row knows");
        store.sql("DELETE FROM audit WHERE number >= 6").await;
        store.sql(head(5)).await;
        assert_eq!(store.first_bad(&key).await, Some(("central-1".into(), 6)), "past a checkpoint");
        store.sql("DELETE FROM audit WHERE number = 3").await;
        assert_eq!(store.first_bad(&key).await, Some(("central-1".into(), 3)));
    }

    async fn a_chain_that_was_written_anew_is_not_the_one_that_was_signed_spec_8_2(store: TestStore) {
        let key = AuditKey::generate();
        store.write_entries(2).await;
        store.checkpoint(&key).await.unwrap();
        store.write_entries(2).await;
        store.checkpoint(&key).await.unwrap();
        // Somebody who knows how entries are chained writes the last two again.
        store.sql("UPDATE writers SET audit_number = 2, audit_hash = (SELECT hash FROM audit WHERE number = 2)").await;
        store.sql("DELETE FROM audit WHERE number > 2").await;
        store.unguarded([RowWrite::Audit(entry("NOTHING", "CP-2"))]).await.unwrap();
        store.unguarded([RowWrite::Audit(entry("HAPPENED", "CP-3"))]).await.unwrap();
        assert_eq!(store.first_bad(&key).await, Some(("central-1".into(), 3)));
    }

    async fn the_checkpoint_file_proves_itself(store: TestStore) {
        let key = AuditKey::generate();
        for _ in 0..3 {
            store.write_entries(1).await;
            store.checkpoint(&key).await.unwrap();
        }
        let file = store.checkpoint_file();
        let whole = std::fs::read_to_string(&file).unwrap();
        let lines: Vec<_> = whole.lines().collect();
        for at in (0..lines[1].len()).step_by(7) {
            let mut changed = lines[1].as_bytes().to_vec();
            changed[at] ^= 1;
            let text = format!("{}\n{}\n{}\n", lines[0], String::from_utf8_lossy(&changed), lines[2]);
            std::fs::write(&file, text).unwrap();
            let bad = store.first_bad(&key).await.unwrap_or_else(|| panic!("byte {at} passed"));
            assert_eq!(bad.0, "checkpoints");
        }
        std::fs::write(&file, format!("{}\n{}\n", lines[0], lines[2])).unwrap();
        assert_eq!(store.first_bad(&key).await, Some(("checkpoints".into(), 2)), "one was taken out");
        std::fs::write(&file, &whole).unwrap();
        let stranger = AuditKey::generate();
        assert_eq!(store.first_bad(&stranger).await, Some(("checkpoints".into(), 1)), "a key that is not trusted");
        // A crash in the middle of a line.
        std::fs::write(&file, format!("{whole}{{\"at_ms\":5,\"prev")).unwrap();
        assert_eq!(store.first_bad(&key).await, None);
        store.write_entries(1).await;
        store.checkpoint(&key).await.unwrap();
        let found = store.verified(&key).await;
        assert_eq!((found.checkpoints, found.first_bad), (4, None));
    }

    async fn a_checkpoint_file_that_is_gone_is_said_and_its_loss_is_signed_spec_8_2(store: TestStore) {
        let (key, late) = (AuditKey::generate(), 1_000_000_000_000);
        store.write_entries(3).await;
        let mut file = store.checkpoints(&key);
        file.write(&store.database, 1).await.unwrap().unwrap();
        std::fs::remove_file(store.checkpoint_file()).unwrap();
        assert_eq!(store.first_bad(&key).await, Some(("checkpoints".into(), 1)), "it is missing");

        // The process that has it open says so, and makes no other in its place.
        store.sql(format!("UPDATE audit SET at_ms = {late} - 3600000")).await;
        let lost = file.write(&store.database, late).await.unwrap_err();
        assert!(matches!(&lost, CheckpointError::Lost(_)) && lost.to_string().contains("is gone"), "{lost}");
        assert!(!store.checkpoint_file().exists());

        // The next process begins a file, which says for ever that it does not vouch for the old entries.
        let mut file = store.checkpoints(&key);
        assert_eq!(file.doubt(), None);
        assert!(file.write(&store.database, late).await.unwrap().unwrap().anew);
        assert!(file.doubt().unwrap().contains("was lost"));
        store.write_entries(1).await;
        assert!(!file.write(&store.database, late + 10_000).await.unwrap().unwrap().anew);
        let bad = store.verified(&key).await.first_bad.unwrap();
        assert_eq!((bad.writer.as_str(), bad.number), ("checkpoints", 1));
        assert!(bad.detail.contains("begins anew"), "{}", bad.detail);
    }

    async fn a_checkpoint_file_whose_end_was_cut_off_is_said_spec_8_2(store: TestStore) {
        let (key, begun) = (AuditKey::generate(), 1_000_000_000_000);
        let mut file = store.checkpoints(&key);
        let mut short = String::new();
        for n in 0..3_i64 {
            store.write_entries(1).await;
            store.sql(format!("UPDATE audit SET at_ms = {begun} + {n} * 600000 WHERE number = {n} + 1")).await;
            file.write(&store.database, begun + n * 600_000 + 1).await.unwrap().unwrap();
            if n == 0 {
                short = std::fs::read_to_string(store.checkpoint_file()).unwrap();
            }
        }
        std::fs::write(store.checkpoint_file(), short).unwrap();
        assert!(matches!(file.write(&store.database, begun + 1_300_000).await, Err(CheckpointError::Lost(_))));
        let mut file = store.checkpoints(&key);
        assert!(file.write(&store.database, begun + 1_800_000).await.unwrap().unwrap().anew);
        assert_eq!(store.first_bad(&key).await.unwrap(), ("checkpoints".into(), 2));
    }

    async fn what_was_written_just_before_a_kill_is_covered_at_the_next_start_spec_8_2(store: TestStore) {
        let (key, begun) = (AuditKey::generate(), 1_000_000_000_000);
        store.write_entries(2).await;
        store.sql(format!("UPDATE audit SET at_ms = {begun}")).await;
        store.checkpoints(&key).write(&store.database, begun + 1).await.unwrap().unwrap();
        store.write_entries(1).await;
        store.sql(format!("UPDATE audit SET at_ms = {begun} + 9000 WHERE number = 3")).await;
        let next = store.checkpoints(&key).write(&store.database, begun + 86_400_000).await.unwrap().unwrap();
        assert!(!next.anew);
    }

    async fn an_entry_after_hours_without_any_is_not_taken_for_the_loss_of_the_file_spec_8_2(store: TestStore) {
        let (key, begun) = (AuditKey::generate(), 1_000_000_000_000);
        store.write_entries(1).await;
        store.sql(format!("UPDATE audit SET at_ms = {begun}")).await;
        store.checkpoints(&key).write(&store.database, begun + 1).await.unwrap().unwrap();
        // Killed just after it wrote the first entry in two hours, and started again ten minutes later.
        store.write_entries(2).await;
        store.sql(format!("UPDATE audit SET at_ms = {begun} + 7200000 + number WHERE number > 1")).await;
        let mut file = store.checkpoints(&key);
        assert!(!file.write(&store.database, begun + 7_800_000).await.unwrap().unwrap().anew);
        assert_eq!(file.doubt(), None);
    }

    async fn entries_that_no_checkpoint_lets_go_are_missed_whatever_the_database_says_spec_8_2(store: TestStore) {
        let key = AuditKey::generate();
        store.write_entries(4).await;
        store.checkpoint(&key).await.unwrap();
        store.sql("UPDATE writers SET pruned_number = 4, addresses_pruned_number = 4, pruned_hash = audit_hash").await;
        assert_eq!(store.first_bad(&key).await, Some(("central-1".into(), 1)), "the claim alone");
        store.sql("DELETE FROM audit").await;
        assert_eq!(store.first_bad(&key).await, Some(("central-1".into(), 1)));
        // A running process signs what is left, and no more.
        store.write_entries(1).await;
        store.checkpoint(&key).await.unwrap();
        assert_eq!(store.first_bad(&key).await, Some(("central-1".into(), 1)));
    }

    async fn addresses_that_no_checkpoint_lets_go_are_missed_whatever_the_database_says_spec_8_2(store: TestStore) {
        let key = AuditKey::generate();
        store.write_entries(1).await;
        store.checkpoint(&key).await.unwrap();
        let mut file = store.checkpoints(&key);
        store.write_entries(3).await;
        file.write(&store.database, 100).await.unwrap();
        assert_eq!(file.prune_addresses(&store.database, 50, 200).await.unwrap(), 1);
        store.sql("UPDATE audit SET address = NULL, address_salt = NULL").await;
        store.sql("UPDATE writers SET addresses_pruned_number = 4").await;
        assert_eq!(store.first_bad(&key).await, Some(("central-1".into(), 2)));
        store.write_entries(1).await;
        file.write(&store.database, 300).await.unwrap();
        assert_eq!(store.first_bad(&key).await, Some(("central-1".into(), 2)), "and no later checkpoint allows it");
    }

    async fn a_signed_entry_that_is_changed_and_signed_again_is_found_spec_8_2(store: TestStore) {
        let key = AuditKey::generate();
        store.write_entries(2).await;
        store.checkpoint(&key).await.unwrap();
        store.sql("UPDATE writers SET audit_number = 1, audit_hash = (SELECT hash FROM audit WHERE number = 1)").await;
        store.sql("DELETE FROM audit WHERE number = 2").await;
        store.unguarded([RowWrite::Audit(entry("NOTHING", "CP-1"))]).await.unwrap();
        store.checkpoint(&key).await.unwrap();
        assert_eq!(store.first_bad(&key).await.map(|(_, number)| number), Some(1), "in the segment that ends there");
    }

    async fn the_audit_is_filtered_by_time_actor_action_and_object_spec_8_3(store: TestStore) {
        let wanted = AuditEntry { at_ms: 50, actor: "operator/eve".into(), action: "RESUME".into(), object: "CP-9".into(), ..entry("", "") };
        store.unguarded([
            RowWrite::Audit(entry("STOP", "CP-1")),
            RowWrite::Audit(wanted.clone()),
            RowWrite::Audit(AuditEntry { at_ms: 51, ..wanted.clone() }),
        ]).await.unwrap();
        let filter = AuditFilter {
            from_ms: 50, until_ms: 51, actor: wanted.actor.clone(), action: wanted.action.clone(), object: wanted.object.clone(),
        };
        let rule = filter.clone();
        let rows = store.read(move |c| AuditRow::list(c, &filter, AuditOrder::NewestFirst, &PageRequest::default())).await.rows;
        assert_eq!(rows.iter().map(|row| row.number).collect::<Vec<_>>(), [2]);
        assert!(rule.matches(&rows[0]) && !rule.matches(&AuditRow { at_ms: 51, ..rows[0].clone() }));
    }
}
