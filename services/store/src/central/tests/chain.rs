use std::path::PathBuf;

use super::*;
use crate::audit::{AuditKey, Checkpoint, Checkpoints, Verification, prune_addresses, prune_through, verify};

impl Bed {
    async fn write_entries(&self, count: usize) {
        for n in 0..count {
            self.unguarded([Write::Audit(entry("STOP", &format!("CP-{n}")))]).await.unwrap();
        }
    }

    fn checkpoint_file(&self) -> PathBuf {
        self.folder.path().join("checkpoints.jsonl")
    }

    async fn checkpoint(&self, key: &str) -> Option<Checkpoint> {
        let mut file = Checkpoints::open(&self.checkpoint_file(), AuditKey::parse(key).unwrap()).unwrap();
        file.write(&self.database, 1).await.unwrap()
    }

    async fn verified(&self, key: &str) -> Verification {
        verify(&self.database, &self.checkpoint_file(), &[AuditKey::parse(key).unwrap().public()]).await.unwrap()
    }

    async fn first_bad(&self, key: &str) -> Option<(String, i64)> {
        self.verified(key).await.first_bad.map(|bad| (bad.writer, bad.number))
    }
}

const TEXTS: [&str; 10] =
    ["writer", "actor", "address", "address_salt", "address_hash", "action", "object", "parameters", "outcome", "hash"];

on_both! {
    async fn an_untouched_audit_is_intact_and_says_what_no_checkpoint_covers_spec_8_2(bed: Bed) {
        let key = AuditKey::generate();
        bed.write_entries(5).await;
        assert_eq!(bed.verified(&key).await.uncovered, 5);
        assert!(bed.checkpoint(&key).await.is_some());
        assert!(bed.checkpoint(&key).await.is_none(), "nothing was written since");
        bed.write_entries(3).await;
        let found = bed.verified(&key).await;
        assert_eq!((found.entries, found.checkpoints, found.uncovered, found.first_bad), (8, 1, 3, None));
        bed.checkpoint(&key).await.unwrap();
        assert_eq!(bed.verified(&key).await.uncovered, 0);
    }

    async fn any_byte_of_any_column_that_changes_is_found_spec_8_2(bed: Bed) {
        let key = AuditKey::generate();
        bed.write_entries(4).await;
        bed.checkpoint(&key).await.unwrap();
        let row = bed.read(|c| AuditRow::list(c, &AuditFilter::default(), AuditOrder::OldestFirst, &PageRequest::default())).await.rows[1].clone();
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
                bed.sql(format!("UPDATE audit SET {column} = '{changed}' WHERE {two}")).await;
                let (_, number) = bed.first_bad(&key).await.unwrap_or_else(|| panic!("{column} byte {at} passed"));
                assert_eq!(number, 2, "{column} byte {at}");
                bed.sql(format!("UPDATE audit SET {column} = '{value}' WHERE {two}")).await;
            }
        }
        for bit in 0..62 {
            for (column, value) in [("at_ms", row.at_ms), ("number", 2)] {
                let changed = value ^ (1 << bit);
                if column == "number" && (1..=4).contains(&changed) {
                    continue; // The primary key forbids it.
                }
                bed.sql(format!("UPDATE audit SET {column} = {changed} WHERE at_ms = {} AND {two}", row.at_ms)).await;
                let (_, found) = bed.first_bad(&key).await.unwrap_or_else(|| panic!("{column} bit {bit} passed"));
                assert!(found <= 2, "{column} bit {bit}: {found}");
                bed.sql(format!("UPDATE audit SET {column} = {value} WHERE {column} = {changed}")).await;
            }
        }
        for erased in ["address = NULL", "address_salt = NULL", "address = NULL, address_salt = NULL"] {
            bed.sql(format!("UPDATE audit SET {erased} WHERE {two}")).await;
            assert_eq!(bed.first_bad(&key).await, Some(("central-1".into(), 2)), "{erased}");
            let (address, salt) = (row.address.clone().unwrap(), row.address_salt.clone().unwrap());
            bed.sql(format!("UPDATE audit SET address = '{address}', address_salt = '{salt}' WHERE {two}")).await;
        }
        assert_eq!(bed.first_bad(&key).await, None, "all was put back");
    }

    async fn a_dropped_entry_and_a_cut_tail_are_found_spec_8_2(bed: Bed) {
        let key = AuditKey::generate();
        bed.write_entries(6).await;
        bed.checkpoint(&key).await.unwrap();
        bed.write_entries(2).await;
        // With the writer's row changed along, only the checkpoint knows.
        let head = |number: i64| format!("UPDATE writers SET audit_number = {number}, audit_hash = (SELECT hash FROM audit WHERE number = {number})");
        bed.sql("DELETE FROM audit WHERE number = 8").await;
        assert_eq!(bed.first_bad(&key).await, Some(("central-1".into(), 8)), "the writer's row knows");
        bed.sql("DELETE FROM audit WHERE number >= 6").await;
        bed.sql(head(5)).await;
        assert_eq!(bed.first_bad(&key).await, Some(("central-1".into(), 6)), "past a checkpoint");
        bed.sql("DELETE FROM audit WHERE number = 3").await;
        assert_eq!(bed.first_bad(&key).await, Some(("central-1".into(), 3)));
    }

    async fn a_chain_that_was_written_anew_is_not_the_one_that_was_signed_spec_8_2(bed: Bed) {
        let key = AuditKey::generate();
        bed.write_entries(2).await;
        bed.checkpoint(&key).await.unwrap();
        bed.write_entries(2).await;
        bed.checkpoint(&key).await.unwrap();
        // Somebody who knows how entries are chained writes the last two again.
        bed.sql("UPDATE writers SET audit_number = 2, audit_hash = (SELECT hash FROM audit WHERE number = 2)").await;
        bed.sql("DELETE FROM audit WHERE number > 2").await;
        bed.unguarded([Write::Audit(entry("NOTHING", "CP-2"))]).await.unwrap();
        bed.unguarded([Write::Audit(entry("HAPPENED", "CP-3"))]).await.unwrap();
        assert_eq!(bed.first_bad(&key).await, Some(("central-1".into(), 3)));
    }

    async fn the_checkpoint_file_proves_itself(bed: Bed) {
        let key = AuditKey::generate();
        for _ in 0..3 {
            bed.write_entries(1).await;
            bed.checkpoint(&key).await.unwrap();
        }
        let file = bed.checkpoint_file();
        let whole = std::fs::read_to_string(&file).unwrap();
        let lines: Vec<_> = whole.lines().collect();
        for at in (0..lines[1].len()).step_by(7) {
            let mut changed = lines[1].as_bytes().to_vec();
            changed[at] ^= 1;
            let text = format!("{}\n{}\n{}\n", lines[0], String::from_utf8_lossy(&changed), lines[2]);
            std::fs::write(&file, text).unwrap();
            let bad = bed.first_bad(&key).await.unwrap_or_else(|| panic!("byte {at} passed"));
            assert_eq!(bad.0, "checkpoints");
        }
        std::fs::write(&file, format!("{}\n{}\n", lines[0], lines[2])).unwrap();
        assert_eq!(bed.first_bad(&key).await, Some(("checkpoints".into(), 2)), "one was taken out");
        std::fs::write(&file, &whole).unwrap();
        let stranger = AuditKey::generate();
        assert_eq!(bed.first_bad(&stranger).await, Some(("checkpoints".into(), 1)), "a key that is not trusted");
        // A crash in the middle of a line.
        std::fs::write(&file, format!("{whole}{{\"at_ms\":5,\"prev")).unwrap();
        assert_eq!(bed.first_bad(&key).await, None);
        bed.write_entries(1).await;
        bed.checkpoint(&key).await.unwrap();
        let found = bed.verified(&key).await;
        assert_eq!((found.checkpoints, found.first_bad), (4, None));
    }

    async fn addresses_go_first_and_segments_that_end_at_a_checkpoint_later_spec_10_9(bed: Bed) {
        let key = AuditKey::generate();
        let at = |at_ms| Write::Audit(AuditEntry { at_ms, ..entry("X", "CP") });
        bed.unguarded([at(10), at(20), at(15), at(30)]).await.unwrap();
        let first = bed.checkpoint(&key).await.unwrap();
        bed.unguarded([at(40)]).await.unwrap();
        bed.checkpoint(&key).await.unwrap();
        let erased: Result<usize, ()> = bed.database.transaction("test", |c| Ok(prune_addresses(c, 20)?)).await.unwrap();
        assert_eq!(erased, Ok(1), "the second is still young, and what follows waits for it");
        let erased: Result<usize, ()> = bed.database.transaction("test", |c| Ok(prune_addresses(c, 35)?)).await.unwrap();
        assert_eq!((erased, bed.first_bad(&key).await), (Ok(3), None));
        let removed: Result<usize, ()> = bed.database.transaction("test", move |c| Ok(prune_through(c, &first)?)).await.unwrap();
        assert_eq!(removed, Ok(4));
        let found = bed.verified(&key).await;
        assert_eq!((found.entries, found.first_bad), (1, None));
        bed.sql("UPDATE writers SET pruned_number = 3").await;
        assert!(bed.first_bad(&key).await.is_some(), "cut where no checkpoint stands");
    }

    async fn the_audit_is_filtered_by_time_actor_action_and_object_spec_8_3(bed: Bed) {
        let wanted = AuditEntry { at_ms: 50, actor: "operator/eve".into(), action: "RESUME".into(), object: "CP-9".into(), ..entry("", "") };
        bed.unguarded([
            Write::Audit(entry("STOP", "CP-1")),
            Write::Audit(wanted.clone()),
            Write::Audit(AuditEntry { at_ms: 51, ..wanted.clone() }),
        ]).await.unwrap();
        let filter = AuditFilter {
            from_ms: 50, until_ms: 51, actor: wanted.actor.clone(), action: wanted.action.clone(), object: wanted.object.clone(),
        };
        let rule = filter.clone();
        let rows = bed.read(move |c| AuditRow::list(c, &filter, AuditOrder::NewestFirst, &PageRequest::default())).await.rows;
        assert_eq!(rows.iter().map(|row| row.number).collect::<Vec<_>>(), [2]);
        assert!(rule.matches(&rows[0]) && !rule.matches(&AuditRow { at_ms: 51, ..rows[0].clone() }));
    }
}
