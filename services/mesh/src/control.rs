//! The control socket of a process (SPEC 1.9): one JSON request per line, one JSON response per line.
//!
//! The response to `{"command":"plug","args":{}}` is `{"ok":…}` or `{"error":"what and why"}`; `"misuse":true` is added
//! where the command is unknown or incomplete. The socket has mode 0600 from the moment it exists, and only the same
//! user (or root) gets answers. It replaces the process's keyboard, so the authorization of network calls does not
//! apply.

use std::{
    fs,
    future::Future,
    io,
    os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    sync::Semaphore,
};

use crate::process::{Context, Misuse};

/// Maximum length of a line, in bytes.
const MAX_LINE: u64 = 256 * 1024;
const MAX_CONNECTIONS: usize = 16;
const IDLE: Duration = Duration::from_secs(600);

/// A command of a person.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ControlRequest {
    pub command: String,
    /// An object, or null where the command takes none.
    #[serde(default)]
    pub args: Value,
}

impl ControlRequest {
    pub fn new(command: impl Into<String>, args: Value) -> Self {
        Self { command: command.into(), args }
    }
}

/// Why a command was refused, in a sentence for a person.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct ControlRefusal {
    text: String,
    misuse: bool,
}

impl ControlRefusal {
    /// The command is unknown or incomplete: the person has to correct it.
    pub fn misuse(text: impl Into<String>) -> Self {
        Self { text: text.into(), misuse: true }
    }
}

/// The command was understood and refused.
impl From<String> for ControlRefusal {
    fn from(text: String) -> Self {
        Self { text, misuse: false }
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct ControlResponse {
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    ok: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    misuse: bool,
}

/// `"ok": null` is a success, unlike a missing field.
fn present<'de, D: serde::Deserializer<'de>>(field: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(field).map(Some)
}

impl From<Result<Value, ControlRefusal>> for ControlResponse {
    fn from(result: Result<Value, ControlRefusal>) -> Self {
        match result {
            Ok(value) => Self { ok: Some(value), ..Self::default() },
            Err(ControlRefusal { text, misuse }) => Self { error: Some(text), misuse, ..Self::default() },
        }
    }
}

/// Why [`ask`] failed.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error("no process listens on the control socket {path}: {error}; is it running, with this --control-socket?",
        path = .path.display())]
    NotThere { path: PathBuf, error: io::Error },
    #[error("the process behind {path} gave no answer: {text}", path = .path.display())]
    NoAnswer { path: PathBuf, text: String },
    /// The process understood the command and refused it.
    #[error("{0}")]
    Refused(String),
    /// The process does not know the command, or it was incomplete.
    #[error("{0}")]
    Misuse(String),
}

/// Binds `path` and answers on it until the process stops.
///
/// # Errors
/// Where the socket cannot be made, or another process answers on it.
pub async fn serve<H, Fut, E>(ctx: &Context, path: &Path, handler: H) -> anyhow::Result<()>
where
    H: Fn(ControlRequest) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Value, E>> + Send + 'static,
    E: Into<ControlRefusal> + Send + 'static,
{
    let listener = bind(path).await?;
    ctx.listening("control", path.display())?;
    let (path, stop, handler) = (path.to_owned(), ctx.stop.clone(), Arc::new(handler));
    ctx.spawn("control", async move {
        stop.run_until_cancelled(accept(&listener, &handler)).await;
        drop(fs::remove_file(path));
        Ok(())
    });
    Ok(())
}

/// Serves the control socket of a role that has no commands of its own: `status` returns the state of each component.
/// Does nothing where no control socket is configured.
///
/// # Errors
/// As [`serve`].
pub async fn serve_status(ctx: &Context) -> anyhow::Result<()> {
    let Some(path) = ctx.control_socket() else { return Ok(()) };
    let (role, health) = (ctx.role, ctx.health.clone());
    let answer = move |request: ControlRequest| {
        let answer = match request.command.as_str() {
            "status" => Ok(serde_json::json!({ "role": role, "health": health.report() })),
            "help" => Ok(serde_json::json!({ "help": "status    how this role and each of its components is" })),
            other => {
                let text = format!("{role} knows no command {other:?}, only status; operators order by gRPC");
                Err(ControlRefusal::misuse(text))
            }
        };
        std::future::ready(answer)
    };
    serve(ctx, path, answer).await
}

/// Sends a command to the process behind `path`.
///
/// # Errors
/// Where nobody listens, there is no answer, or the process refuses.
pub async fn ask(path: &Path, request: &ControlRequest) -> Result<Value, ControlError> {
    let stream = UnixStream::connect(path).await;
    let stream = stream.map_err(|error| ControlError::NotThere { path: path.into(), error })?;
    let no_answer = |text: String| ControlError::NoAnswer { path: path.into(), text };
    let answer = async {
        let mut stream = BufReader::new(stream);
        stream.write_all(&line(request)?).await?;
        read_line(&mut stream).await
    };
    let answer = answer.await.map_err(|error| no_answer(error.to_string()))?;
    let answer = answer.ok_or_else(|| no_answer("it closed the connection".into()))?;
    match serde_json::from_slice(&answer).map_err(|error| no_answer(error.to_string()))? {
        ControlResponse { ok: Some(value), .. } => Ok(value),
        ControlResponse { error: Some(text), misuse: true, .. } => Err(ControlError::Misuse(text)),
        ControlResponse { error: Some(text), .. } => Err(ControlError::Refused(text)),
        ControlResponse { .. } => Err(no_answer("it said neither ok nor error".into())),
    }
}

async fn accept<H, Fut, E>(listener: &UnixListener, handler: &Arc<H>)
where
    H: Fn(ControlRequest) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Value, E>> + Send + 'static,
    E: Into<ControlRefusal> + Send + 'static,
{
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        // While all slots are taken, the kernel queues connections.
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let handler = handler.clone();
                tokio::spawn(async move {
                    if let Err(error) = converse(stream, &*handler).await {
                        tracing::debug!(%error, "control connection");
                    }
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept on the control socket");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn converse<H, Fut, E>(stream: UnixStream, handler: &H) -> io::Result<()>
where
    H: Fn(ControlRequest) -> Fut,
    Fut: Future<Output = Result<Value, E>>,
    E: Into<ControlRefusal>,
{
    let peer = stream.peer_cred()?.uid();
    if peer != 0 && peer != nix::unistd::geteuid().as_raw() {
        return Err(io::Error::other(format!("user {peer} is not the owner")));
    }
    let mut stream = BufReader::new(stream);
    while let Some(text) = tokio::time::timeout(IDLE, read_line(&mut stream)).await?? {
        let answer = match serde_json::from_slice::<ControlRequest>(&text) {
            Ok(request) => handler(request).await.map_err(Into::into),
            Err(error) => {
                let text = format!("not a request: {error}; one looks like {{\"command\":\"state\",\"args\":{{}}}}");
                Err(ControlRefusal::misuse(text))
            }
        };
        stream.write_all(&line(&ControlResponse::from(answer))?).await?;
    }
    Ok(())
}

fn line(value: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut text = serde_json::to_vec(value)?;
    text.push(b'\n');
    Ok(text)
}

/// Reads a line; `None` at the end of the stream.
async fn read_line(stream: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<Vec<u8>>> {
    let mut text = Vec::new();
    let read = stream.take(MAX_LINE).read_until(b'\n', &mut text).await?;
    match text.pop() {
        None => Ok(None),
        Some(b'\n') => Ok(Some(text)),
        Some(_) if read as u64 == MAX_LINE => Err(io::Error::other("the line is too long")),
        Some(_) => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

async fn bind(path: &Path) -> anyhow::Result<UnixListener> {
    let misuse = |why: String| Misuse::new(format!("cannot make the control socket {}: {why}", path.display()));
    if UnixStream::connect(path).await.is_ok() {
        return Err(misuse("another process answers on it".into()).into());
    }
    Ok(private_socket(path).map_err(|error| misuse(error.to_string()))?)
}

/// Creates a socket that only this user can connect to: it is made in a private folder and then renamed to `path`, so
/// that no other user can connect at any moment. It replaces a socket that a killed process left behind, and nothing
/// else. The pairing socket of SPEC 1.4 is made by it as well.
///
/// # Errors
/// Where the folder or the socket cannot be made, or something else has its place.
pub fn private_socket(path: &Path) -> io::Result<UnixListener> {
    if fs::symlink_metadata(path).is_ok_and(|there| !there.file_type().is_socket()) {
        return Err(io::Error::other("it is not a socket; give another path"));
    }
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let private = folder.join(format!(".c{:08x}", rand::random::<u32>()));
    fs::DirBuilder::new().mode(0o700).create(&private)?;
    let socket = private.join("s");
    let made = UnixListener::bind(&socket).and_then(|listener| {
        fs::set_permissions(&socket, fs::Permissions::from_mode(0o600))?;
        fs::rename(&socket, path)?;
        Ok(listener)
    });
    drop(fs::remove_file(&socket));
    drop(fs::remove_dir(&private));
    made
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn echo(request: ControlRequest) -> Result<Value, String> {
        match request.command.as_str() {
            "echo" => Ok(request.args),
            other => Err(format!("no command {other:?}")),
        }
    }

    #[tokio::test]
    async fn a_request_is_answered_and_a_refusal_is_a_sentence_spec_1_9() {
        let (dir, ctx) = (tempfile::tempdir().unwrap(), Context::detached("engine"));
        let path = dir.path().join("sub/engine.sock");
        serve(&ctx, &path, echo).await.unwrap();
        let args = serde_json::json!({"wh": 7});
        assert_eq!(ask(&path, &ControlRequest::new("echo", args.clone())).await.unwrap(), args);
        let refused = ask(&path, &ControlRequest::new("fly", Value::Null)).await.unwrap_err();
        assert_eq!(refused.to_string(), "no command \"fly\"");
        ctx.stop.cancel();
        ctx.ended().await.unwrap();
        assert!(!path.exists());
        assert!(
            ask(&path, &ControlRequest::new("echo", Value::Null))
                .await
                .unwrap_err()
                .to_string()
                .contains("is it running")
        );
    }

    #[tokio::test]
    async fn what_is_no_command_is_told_from_what_is_refused_spec_1_9() {
        let (dir, ctx) = (tempfile::tempdir().unwrap(), Context::detached("registry"));
        let path = dir.path().join("c.sock");
        let answer = |request: ControlRequest| {
            std::future::ready(match request.command.as_str() {
                "nothing" => Ok(Value::Null),
                "stop" => Err(ControlRefusal::from("not now".to_owned())),
                _ => Err(ControlRefusal::misuse("no such command")),
            })
        };
        serve(&ctx, &path, answer).await.unwrap();
        let asked = async |command: &str| ask(&path, &ControlRequest::new(command, Value::Null)).await;
        assert_eq!(asked("nothing").await.unwrap(), Value::Null);
        assert!(matches!(asked("stop").await, Err(ControlError::Refused(text)) if text == "not now"));
        assert!(matches!(asked("fly").await, Err(ControlError::Misuse(text)) if text == "no such command"));
    }

    #[tokio::test]
    async fn the_socket_has_mode_0600_and_nothing_is_left_beside_it_spec_1_4() {
        let (dir, ctx) = (tempfile::tempdir().unwrap(), Context::detached("engine"));
        let path = dir.path().join("c.sock");
        serve(&ctx, &path, echo).await.unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn a_socket_left_behind_is_replaced_and_one_in_use_is_not() {
        let (dir, ctx) = (tempfile::tempdir().unwrap(), Context::detached("engine"));
        let path = dir.path().join("c.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        serve(&ctx, &path, echo).await.unwrap();
        let second = serve(&ctx, &path, echo).await.unwrap_err();
        assert!(second.to_string().contains("another process answers on it"), "{second}");
        assert_eq!(crate::process::exit_code(&second), 2);
    }

    #[tokio::test]
    async fn what_is_no_socket_is_never_replaced_by_one_spec_1_9() {
        let (dir, ctx) = (tempfile::tempdir().unwrap(), Context::detached("engine"));
        let (file, link) = (dir.path().join("notes.txt"), dir.path().join("link"));
        fs::write(&file, "mine").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        for path in [&file, &link] {
            let refused = serve(&ctx, path, echo).await.unwrap_err();
            assert!(refused.to_string().contains("is not a socket; give another path"), "{refused}");
            assert_eq!(crate::process::exit_code(&refused), 2);
        }
        assert_eq!(fs::read_to_string(&link).unwrap(), "mine");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[tokio::test]
    async fn a_bad_line_is_answered_and_a_line_without_end_is_cut_off() {
        let (dir, ctx) = (tempfile::tempdir().unwrap(), Context::detached("engine"));
        let path = dir.path().join("c.sock");
        serve(&ctx, &path, echo).await.unwrap();
        let mut stream = BufReader::new(UnixStream::connect(&path).await.unwrap());
        stream.write_all(b"plug!\n").await.unwrap();
        let answer = read_line(&mut stream).await.unwrap().unwrap();
        assert!(String::from_utf8(answer).unwrap().contains("not a request"));
        let endless = vec![b'x'; 1 + MAX_LINE as usize];
        drop(stream.write_all(&endless).await);
        assert!(!matches!(read_line(&mut stream).await, Ok(Some(_))), "closed without an answer");
    }
}
