//! The audit followed into a plain file (SPEC 8.3).
//!
//! Its lines are read from the database, by number, from where the file ends: a bell says only when, so that nothing is
//! missing that was committed before a kill, or that came faster than it was written. Where the file ends stands in a
//! mark beside it: after which entry, at which length; each whole line beyond is the next entry. Half a line, of a kill
//! or a full disk, is cut off.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use mesh::process::{Context, Misuse};
use serde::{Deserialize, Serialize};
use store::central::{AuditRow, audit};
use tokio::sync::broadcast::error::RecvError;

use crate::shared::SharedState;

/// Entries in one reading.
const AT_ONCE: i64 = 500;
/// Entries between two marks: whoever is killed counts as many lines at most.
const MARKED_EVERY: i64 = 1_000;
/// Between two tries where the file or the database takes nothing.
const RETRY: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct AuditFile {
    file: File,
    mark: PathBuf,
    ends: Mark,
    /// At the last mark.
    marked: i64,
}

/// Where the file ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Mark {
    writer: String,
    /// Of the last entry.
    number: i64,
    length: u64,
}

impl AuditFile {
    /// Goes on where the file ends; one that has no mark begins with what is written from now on.
    ///
    /// # Errors
    /// Where it cannot be opened, or the database cannot be read.
    pub(crate) async fn open(path: &Path, shared: &SharedState) -> anyhow::Result<Self> {
        let writer = shared.owner.clone();
        let last = shared.store.read("audit file", move |conn| audit::last_number(conn, &writer)).await?;
        Self::at(path, &shared.owner, last)
            .map_err(|error| Misuse::new(format!("cannot write the audit to {}: {error}", path.display())).into())
    }

    fn at(path: &Path, writer: &str, last: i64) -> io::Result<Self> {
        let mut file = File::options().read(true).append(true).create(true).open(path)?;
        let mut mark = path.as_os_str().to_owned();
        mark.push(".mark");
        let mark = PathBuf::from(mark);
        let kept = std::fs::read(&mark).ok().and_then(|bytes| serde_json::from_slice::<Mark>(&bytes).ok());
        let there = file.metadata()?.len();
        let ends = match kept.filter(|kept| kept.writer == writer && kept.number <= last) {
            Some(kept) if kept.length <= there => {
                let (lines, length) = whole_lines(&mut file, kept.length)?;
                Mark { number: kept.number.saturating_add(lines).min(last), length, ..kept }
            }
            // Somebody has begun it anew.
            Some(kept) => Mark { length: whole_lines(&mut file, 0)?.1, ..kept },
            None => Mark { writer: writer.to_owned(), number: last, length: whole_lines(&mut file, 0)?.1 },
        };
        let mut opened = Self { file, mark, marked: ends.number, ends };
        opened.cut()?;
        opened.keep_mark();
        Ok(opened)
    }

    /// Until the process stops.
    pub(crate) async fn follow(mut self, shared: Arc<SharedState>, ctx: Context) -> Self {
        let component = ctx.health.component("audit file");
        let mut bell = shared.store.follow();
        while !ctx.stop.is_cancelled() {
            if let Err(why) = self.catch_up(&shared).await {
                component.degraded(format!("the audit cannot be written to its file: {why}"));
                ctx.stop.run_until_cancelled(tokio::time::sleep(RETRY)).await;
                continue;
            }
            component.ready();
            tokio::select! {
                rung = bell.recv() => if matches!(rung, Err(RecvError::Closed)) {
                    return self;
                },
                () = ctx.stop.cancelled() => {}
            }
            // Once for all that has come meanwhile.
            while bell.try_recv().is_ok() {}
        }
        self
    }

    /// With the last entry of this process.
    pub(crate) async fn end(mut self, shared: &SharedState) {
        if let Err(why) = self.catch_up(shared).await {
            tracing::warn!(why, "the audit's file lacks its last entries until the next start");
        }
        self.keep_mark();
    }

    async fn catch_up(&mut self, shared: &SharedState) -> Result<(), String> {
        loop {
            let Mark { writer, number, .. } = self.ends.clone();
            let read = move |conn: &mut store::Conn| AuditRow::after(conn, &writer, number, AT_ONCE);
            let rows = shared.store.read("audit file", read).await.map_err(|error| error.to_string())?;
            let Some(last) = rows.last() else { return Ok(()) };
            let text: String = rows.iter().map(line).collect();
            self.append(&text, last.number).map_err(|error| error.to_string())?;
        }
    }

    fn append(&mut self, text: &str, number: i64) -> io::Result<()> {
        self.cut()?;
        if let Err(error) = self.file.write_all(text.as_bytes()) {
            // Tried again before the next writing.
            let _ = self.cut();
            return Err(error);
        }
        self.ends.length += text.len() as u64;
        self.ends.number = number;
        if number - self.marked >= MARKED_EVERY {
            self.keep_mark();
        }
        Ok(())
    }

    /// Takes off what a failed writing left; what somebody else took off is gone.
    fn cut(&mut self) -> io::Result<()> {
        let there = self.file.metadata()?.len();
        if there > self.ends.length {
            return self.file.set_len(self.ends.length);
        }
        if there < self.ends.length {
            self.ends.length = there;
            self.keep_mark();
        }
        Ok(())
    }

    /// Where that fails the former one says the same: the lines beyond it are counted. Never of more than is on disk.
    fn keep_mark(&mut self) {
        let beside = self.mark.with_extension("mark.new");
        let text = serde_json::to_string(&self.ends).unwrap_or_default();
        let synced = self.file.sync_data();
        match synced.and_then(|()| std::fs::write(&beside, text)).and_then(|()| std::fs::rename(&beside, &self.mark)) {
            Ok(()) => self.marked = self.ends.number,
            Err(error) => tracing::debug!(%error, "where the audit's file ends could not be noted"),
        }
    }
}

/// How many whole lines there are from `start` on, and where the last one ends.
fn whole_lines(file: &mut File, start: u64) -> io::Result<(i64, u64)> {
    let (mut lines, mut end) = (0, start);
    file.seek(SeekFrom::Start(start))?;
    let mut reader = BufReader::new(file);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = reader.read_until(b'\n', &mut line)?;
        if !line.ends_with(b"\n") {
            return Ok((lines, end));
        }
        lines += 1;
        end += read as u64;
    }
}

/// `time | address | who | ACTION | k=v, …`. What came from outside cannot break the line.
fn line(row: &AuditRow) -> String {
    let parameters = serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&row.parameters);
    let parameters = parameters.unwrap_or_default();
    let said = parameters.iter().map(|(name, value)| {
        let text = value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
        format!("{name}={text}")
    });
    let all: Vec<_> = [format!("object={}", row.object)]
        .into_iter()
        .chain(said)
        .chain([format!("outcome={}", row.outcome)])
        .map(|part| plain(&part))
        .collect();
    let address = row.address.as_deref().filter(|address| !address.is_empty()).unwrap_or("-");
    let time = mesh::clock::in_words(row.at_ms.div_euclid(1000));
    let time = format!("{}.{:03}Z", time.trim_end_matches('Z'), row.at_ms.rem_euclid(1000));
    format!("{time} | {} | {} | {} | {}\n", plain(address), plain(&row.actor), plain(&row.action), all.join(", "))
}

fn plain(text: &str) -> String {
    text.chars().map(|c| if mesh::screen::is_unseen(c) || c == '|' { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        audit::{AuditAction, AuditRecord},
        origin::Origin,
        rows,
        testing::TestCentral,
    };
    use store::central::RowWrite;

    fn said(n: usize, central: &TestCentral) -> RowWrite {
        let entry = AuditRecord::new(AuditAction::Login, format!("driver/D{n}"));
        RowWrite::Audit(rows::audit(&entry.by(&Origin::central(), central.shared.clock.now())))
    }

    fn lines_of(path: &Path) -> Vec<String> {
        std::fs::read_to_string(path).unwrap().lines().map(ToOwned::to_owned).collect()
    }

    /// Which drivers the file names, in order.
    fn drivers(path: &Path) -> Vec<usize> {
        let number = |line: &String| line.split("object=driver/D").nth(1)?.split(',').next()?.parse().ok();
        lines_of(path).iter().map(|line| number(line).unwrap_or_else(|| panic!("{line:?} is no whole line"))).collect()
    }

    #[tokio::test]
    async fn what_was_written_before_a_kill_is_in_the_file_after_it_spec_8_3() {
        let central = TestCentral::new(crate::settings::CentralSettings::default(), 10).await;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        central.write(vec![said(0, &central)]).await;
        let mut file = AuditFile::open(&path, &central.shared).await.unwrap();
        central.write(vec![said(1, &central), said(2, &central)]).await;
        file.catch_up(&central.shared).await.unwrap();
        central.write(vec![said(3, &central)]).await;
        file.catch_up(&central.shared).await.unwrap();
        // Killed in the middle of a line.
        file.file.write_all(b"2026-01-01T00:00:00.000Z | - | cent").unwrap();
        drop(file);
        central.write((4..1_200).map(|n| said(n, &central)).collect()).await;
        let mut file = AuditFile::open(&path, &central.shared).await.unwrap();
        assert_eq!(drivers(&path), [1, 2, 3], "from where it was begun, and whole lines alone");
        file.catch_up(&central.shared).await.unwrap();
        assert_eq!(drivers(&path), (1..1_200).collect::<Vec<_>>(), "each once");
        drop(file);
        central.write(vec![said(1_200, &central)]).await;
        std::fs::remove_file(&path).unwrap();
        let mut file = AuditFile::open(&path, &central.shared).await.unwrap();
        file.catch_up(&central.shared).await.unwrap();
        assert_eq!(drivers(&path).last(), Some(&1_200), "one that was taken away is gone on with");
    }

    #[tokio::test]
    async fn a_line_that_found_no_room_is_written_whole_when_there_is_some_spec_9() {
        let central = TestCentral::new(crate::settings::CentralSettings::default(), 10).await;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let mut file = AuditFile::open(&path, &central.shared).await.unwrap();
        central.write(vec![said(1, &central)]).await;
        file.catch_up(&central.shared).await.unwrap();
        central.write(vec![said(2, &central)]).await;
        // One that takes nothing, as a full disk.
        let usual = std::mem::replace(&mut file.file, File::open(&path).unwrap());
        file.catch_up(&central.shared).await.unwrap_err();
        // And what a disk that is filled in the middle of a line is left with.
        file.file = usual;
        file.file.write_all(b"2026-01-01T00:00:00.000Z | - | cent").unwrap();
        central.write(vec![said(3, &central)]).await;
        file.catch_up(&central.shared).await.unwrap();
        assert_eq!(drivers(&path), [1, 2, 3]);
    }

    #[tokio::test]
    async fn an_entry_whose_caller_has_gone_is_in_the_file_spec_8_3() {
        let central = TestCentral::new(crate::settings::CentralSettings::default(), 10).await;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let file = AuditFile::open(&path, &central.shared).await.unwrap();
        tokio::spawn(file.follow(Arc::clone(&central.shared), central.ctx.clone()));
        let given_up = futures::FutureExt::now_or_never(central.write(vec![said(1, &central)]));
        assert_eq!(given_up, None);
        central.until(|| drivers(&path) == [1]).await;
        std::fs::write(&path, "").unwrap();
        central.write(vec![said(2, &central)]).await;
        central.until(|| drivers(&path) == [2]).await;
    }

    #[test]
    fn an_entry_is_one_line_whatever_it_says_spec_8_3() {
        let row = AuditRow {
            at_ms: 1_763_694_305_007,
            address: Some("192.0.2.1:7".into()),
            actor: "driver/D1".into(),
            action: "SUPPLY_REFUSED".into(),
            object: "charging-point/CP1".into(),
            parameters: r#"{"detail":"a\nb | c\u202ed","count":3}"#.into(),
            outcome: "BROKEN".into(),
            ..AuditRow::default()
        };
        assert_eq!(
            line(&row),
            "2025-11-21T03:05:05.007Z | 192.0.2.1:7 | driver/D1 | SUPPLY_REFUSED | object=charging-point/CP1, \
             count=3, detail=a b   c d, outcome=BROKEN\n"
        );
    }
}
