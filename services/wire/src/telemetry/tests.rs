//! Sealing and opening of readings, and detection of duplicates and gaps.

use proptest::prelude::*;

use super::*;
use crate::pair::key;

const STREAM: [u8; 16] = [5; 16];

fn reading(sequence: u64) -> Reading {
    Reading { sequence, meter_wh: 1000 + sequence, ..Reading::default() }
}

fn sealed(stream: u8, sequences: impl IntoIterator<Item = u64>) -> Vec<SealedReading> {
    let mut sealer = Sealer::new(&key(1), 7, "CP-1", [stream; 16]);
    sequences.into_iter().map(|sequence| sealer.seal(&reading(sequence)).unwrap()).collect()
}

#[test]
fn duplicates_gaps_and_reordering_are_told_apart_and_counted_spec_5_4() {
    let all = sealed(5, 1..=9);
    let mut opener = Opener::new("CP-1");
    let orders: Vec<_> =
        [0, 1, 1, 5, 3, 3, 6].map(|at| opener.open(&all[at], &key(1), u64::MAX).map(|(_, order)| order)).into();
    let (first, next, late, twice) =
        (Ok(ReadingOrder::First), Ok(ReadingOrder::Next), Ok(ReadingOrder::Late), Err(OpenError::Duplicate));
    assert_eq!(orders, [first, next, twice, Ok(ReadingOrder::AfterGap(3)), late, twice, next]);
    let counts = ReadingCounts { opened: 5, duplicates: 2, missing: 2, late: 1, unintelligible: 0 };
    assert_eq!(opener.counts(), counts);
}

#[test]
fn a_reading_of_another_key_charging_point_stream_or_sequence_does_not_open_spec_4_8() {
    let one = sealed(5, [3]).remove(0);
    let mut opener = Opener::new("CP-1");
    let mut tampered = one.clone();
    tampered.ciphertext = one.ciphertext.iter().map(|byte| byte ^ 1).collect::<Vec<_>>().into();
    let forged = [
        SealedReading { sequence: 4, ..one.clone() },
        SealedReading { key_no: 8, ..one.clone() },
        SealedReading { stream_id: vec![6; 16], ..one.clone() },
        tampered,
    ];
    for forged in &forged {
        assert_eq!(opener.open(forged, &key(1), u64::MAX), Err(OpenError::DoesNotOpen));
    }
    assert_eq!(opener.open(&one, &key(2), u64::MAX), Err(OpenError::DoesNotOpen));
    assert_eq!(Opener::new("CP-2").open(&one, &key(1), u64::MAX), Err(OpenError::DoesNotOpen));
    let short = SealedReading { stream_id: vec![5; 15], ..one.clone() };
    assert_eq!(opener.open(&short, &key(1), u64::MAX), Err(OpenError::Malformed));
    assert_eq!(opener.counts().unintelligible, 6);
    assert_eq!(
        opener.open(&one, &key(1), u64::MAX),
        Ok((reading(3), ReadingOrder::First)),
        "what was forged broke nothing"
    );
}

#[test]
fn no_sequence_is_sealed_twice_under_one_key() {
    let mut sealer = Sealer::new(&key(1), 7, "CP-1", STREAM);
    assert!(sealer.seal(&reading(2)).is_ok());
    assert_eq!(sealer.seal(&reading(2)), Err(SealError::Sequence(2, 2)));
    assert_eq!(sealer.seal(&reading(1)), Err(SealError::Sequence(1, 2)));
}

#[test]
fn a_rotation_goes_on_in_the_same_stream_and_loses_nothing_spec_4_6() {
    let (mut old, mut new) = (Sealer::new(&key(1), 7, "CP-1", STREAM), Sealer::new(&key(2), 8, "CP-1", STREAM));
    let (first, second) = (old.seal(&reading(1)).unwrap(), old.seal(&reading(2)).unwrap());
    let third = new.seal(&reading(3)).unwrap();
    let mut opener = Opener::new("CP-1");
    assert_eq!(opener.open(&first, &key(1), u64::MAX).unwrap().1, ReadingOrder::First);
    assert_eq!(opener.open(&third, &key(2), u64::MAX).unwrap().1, ReadingOrder::AfterGap(1));
    assert_eq!(opener.open(&second, &key(1), u64::MAX).unwrap().1, ReadingOrder::Late, "under the retired key");
    assert_eq!(opener.open(&third, &key(2), u64::MAX), Err(OpenError::Duplicate));
    assert_eq!(opener.counts().missing, 0);
}

#[test]
fn a_spoiled_sealer_is_not_understood_until_repaired_spec_4_8() {
    let (mut sealer, mut opener) = (Sealer::new(&key(1), 7, "CP-1", STREAM), Opener::new("CP-1"));
    sealer.spoil();
    assert_eq!(opener.open(&sealer.seal(&reading(1)).unwrap(), &key(1), u64::MAX), Err(OpenError::DoesNotOpen));
    sealer.repair();
    assert!(opener.open(&sealer.seal(&reading(2)).unwrap(), &key(1), u64::MAX).is_ok());
}

#[test]
fn readings_of_streams_that_have_ended_are_not_taken_again() {
    let mut opener = Opener::new("CP-1");
    let streams: Vec<_> = (1..=20).map(|stream| sealed(stream, 1..=3)).collect();
    for stream in &streams {
        stream.iter().for_each(|reading| assert!(opener.open(reading, &key(1), u64::MAX).is_ok()));
    }
    for stream in &streams {
        assert_eq!(opener.open(&stream[2], &key(1), u64::MAX), Err(OpenError::Duplicate));
    }
    assert!(opener.streams.len() <= STREAMS && opener.ended.len() <= ENDED);
}

proptest! {
    #[test]
    fn each_reading_is_handed_out_at_most_once_in_whatever_order_they_come(
        picks in prop::collection::vec(0usize..3000, 1..200),
    ) {
        let mut seen = ReplayWindow::default();
        let mut taken = std::collections::HashSet::new();
        let (mut missing, mut first) = (0u64, None);
        for pick in picks {
            let sequence = pick as u64 + 1;
            match seen.order(sequence) {
                Some(order) => {
                    prop_assert!(taken.insert(sequence));
                    match order {
                        ReadingOrder::First => first = Some(sequence),
                        ReadingOrder::AfterGap(count) => missing += count,
                        ReadingOrder::Late => missing -= 1,
                        ReadingOrder::Next => {}
                    }
                }
                None => {
                    let late = sequence <= first.unwrap_or(0) || sequence + WINDOW <= seen.highest;
                    prop_assert!(late || taken.contains(&sequence));
                }
            }
        }
        let expected = seen.highest - first.unwrap_or(0) + 1 - taken.len() as u64;
        prop_assert_eq!(missing, expected);
    }
}

#[test]
fn what_is_longer_than_a_reading_can_be_is_refused_before_it_is_kept_spec_4_8() {
    let seal = |session_id: String| {
        let reading = Reading { session_id, ..reading(1) };
        Sealer::new(&key(1), 7, "CP-1", STREAM).seal(&reading).unwrap()
    };
    let mut opener = Opener::new("CP-1");
    for length in [129, 1_000_000] {
        assert_eq!(opener.open(&seal("s".repeat(length)), &key(1), u64::MAX), Err(OpenError::Malformed), "{length}");
    }
    assert!(!is_well_formed(&seal("s".repeat(1_000_000))), "whoever has no key does not pass it on either");
    let longest = seal("s".repeat(128));
    assert!(is_well_formed(&longest) && opener.open(&longest, &key(1), u64::MAX).is_ok());
}

#[test]
fn a_sequence_that_leaps_counts_no_more_missing_than_is_believed_spec_5_4() {
    let all = sealed(5, [1, 10, u64::MAX / 2]);
    let mut opener = Opener::new("CP-1");
    let orders: Vec<_> = all.iter().map(|sealed| opener.open(sealed, &key(1), 20).unwrap().1).collect();
    assert_eq!(orders, [ReadingOrder::First, ReadingOrder::AfterGap(8), ReadingOrder::AfterGap(12)]);
    assert_eq!(opener.counts().missing, 20);
}
