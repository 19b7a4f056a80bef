//! The command's side: has the agent announce the shutdown, and waits until the host may go.

use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout_at};

use super::{ASK_AGAIN, Ask, LONGEST_LINE_BYTES, Then, Word};

/// How long is waited.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// In all.
    pub total: Duration,
    /// For a control plane, or an agent, that does not answer.
    pub unheard: Duration,
}

/// Why the host goes down though it is not empty.
#[derive(Debug, thiserror::Error)]
pub enum NotReady {
    /// The control plane could not be asked.
    #[error("for {seconds} s nobody could be asked whether this host may go down: {why}")]
    Unheard {
        /// How long.
        seconds: u64,
        /// The last complaint.
        why: String,
    },
    /// Something does not go.
    #[error("after {seconds} s these are still here: {}", left.join("; "))]
    TooLong {
        /// How long.
        seconds: u64,
        /// What is left.
        left: Vec<String>,
    },
}

/// What is known while it waits.
struct Wait<'s> {
    limits: Limits,
    begun: Instant,
    heard: Instant,
    left: Vec<String>,
    why: String,
    said: String,
    say: &'s mut (dyn FnMut(&str) + Send),
}

impl Wait<'_> {
    /// No longer than this.
    fn end(&self) -> Instant {
        (self.heard + self.limits.unheard).min(self.begun + self.limits.total)
    }

    /// Says what is new.
    fn tell(&mut self, text: String) {
        if self.said != text {
            (self.say)(&text);
            self.said = text;
        }
    }
}

/// Announces the shutdown and waits until nothing of the cluster's is left here. `say` is given each new thing to tell people.
pub async fn wait(
    socket: &Path,
    then: Then,
    limits: Limits,
    say: &mut (dyn FnMut(&str) + Send),
) -> Result<(), NotReady> {
    let now = Instant::now();
    let mut wait = Wait {
        limits,
        begun: now,
        heard: now,
        left: Vec::new(),
        why: "no answer yet".into(),
        said: String::new(),
        say,
    };
    loop {
        match ask(socket, then, &mut wait).await {
            Ok(()) => {
                wait.tell("nothing of the cluster's is left here: the host may go down".into());
                return Ok(());
            }
            // The agent may be starting again: the next connection says it anew.
            Err(error) if Instant::now() < wait.end() => {
                wait.why = format!("the agent cannot be asked: {error}");
                wait.tell(wait.why.clone());
                tokio::time::sleep_until(wait.end().min(Instant::now() + ASK_AGAIN)).await;
            }
            Err(_) => {}
        }
        let now = Instant::now();
        if now >= wait.begun + limits.total {
            return Err(NotReady::TooLong { seconds: limits.total.as_secs(), left: wait.left });
        }
        if now >= wait.heard + limits.unheard {
            return Err(NotReady::Unheard { seconds: limits.unheard.as_secs(), why: wait.why });
        }
    }
}

/// Over one connection, until nothing is left.
async fn ask(socket: &Path, then: Then, wait: &mut Wait<'_>) -> std::io::Result<()> {
    let (reader, mut writer) = UnixStream::connect(socket).await?.into_split();
    let mut line = serde_json::to_vec(&Ask { then })?;
    line.push(b'\n');
    writer.write_all(&line).await?;
    let mut reader = BufReader::new(reader);
    loop {
        let mut line = String::new();
        let mut limited = (&mut reader).take(LONGEST_LINE_BYTES);
        if timeout_at(wait.end(), limited.read_line(&mut line)).await?? == 0 {
            return Err(std::io::Error::other("it has ended"));
        }
        match serde_json::from_str(&line)? {
            Word::Empty => return Ok(()),
            Word::Left(left) => {
                wait.heard = Instant::now();
                wait.tell(format!("{} still here: {}", left.len(), left.join("; ")));
                wait.left = left;
            }
            Word::Unheard(why) => {
                wait.tell(format!("the control plane does not answer: {why}"));
                wait.why = why;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::{Arc, Mutex};

    use tempfile::TempDir;
    use tokio::net::UnixListener;

    use super::*;

    /// An agent that says these words, a connection each.
    fn agent(words: Vec<Vec<Word>>) -> (TempDir, PathBuf, Arc<Mutex<Vec<String>>>) {
        let directory = tempfile::tempdir().unwrap();
        let path = super::super::socket(directory.path());
        let listener = UnixListener::bind(&path).unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        tokio::spawn({
            let asked = asked.clone();
            async move {
                let count = words.len();
                let mut open = Vec::new();
                for (number, words) in words.into_iter().enumerate() {
                    let (stream, _) = listener.accept().await.unwrap();
                    let (reader, mut writer) = stream.into_split();
                    let mut lines = BufReader::new(reader).lines();
                    let ask = lines.next_line().await.unwrap().unwrap();
                    asked.lock().unwrap().push(ask);
                    for word in words {
                        let line = serde_json::to_string(&word).unwrap() + "\n";
                        writer.write_all(line.as_bytes()).await.unwrap();
                    }
                    // The last one says no more, but stays.
                    if number + 1 == count {
                        open.push(writer);
                    }
                }
                std::future::pending::<()>().await;
            }
        });
        (directory, path, asked)
    }

    fn limits(total_ms: u64, unheard_ms: u64) -> Limits {
        let total = Duration::from_millis(total_ms);
        Limits { total, unheard: Duration::from_millis(unheard_ms) }
    }

    fn left(names: &[&str]) -> Word {
        Word::Left(names.iter().map(|name| (*name).to_owned()).collect())
    }

    #[tokio::test]
    async fn it_waits_until_nothing_is_left_and_says_each_change_once_over_a_restart_of_the_agent()
    {
        let before = vec![left(&["vm:a", "vm:b"]), left(&["vm:a", "vm:b"])];
        let after = vec![Word::Unheard("no leader".into()), left(&["vm:b"]), Word::Empty];
        let (_directory, path, asked) = agent(vec![before, after]);
        let mut said = Vec::new();
        let mut say = |text: &str| said.push(text.to_owned());
        wait(&path, Then::Reboot, limits(20_000, 20_000), &mut say).await.unwrap();
        assert_eq!(
            said,
            [
                "2 still here: vm:a; vm:b",
                "the agent cannot be asked: it has ended",
                "the control plane does not answer: no leader",
                "1 still here: vm:b",
                "nothing of the cluster's is left here: the host may go down",
            ]
        );
        assert_eq!(*asked.lock().unwrap(), [r#"{"then":"reboot"}"#; 2]);
    }

    #[tokio::test]
    async fn what_does_not_go_and_who_does_not_answer_keep_the_host_up_within_limits() {
        let (_directory, path, _) = agent(vec![vec![left(&["vm:a"]), left(&["vm:b: it stops"])]]);
        let error = wait(&path, Then::StayOff, limits(1_000, 60_000), &mut |_| {}).await;
        assert_eq!(
            error.unwrap_err().to_string(),
            "after 1 s these are still here: vm:b: it stops"
        );
        let (_directory, path, _) = agent(vec![vec![Word::Unheard("no leader".into())]]);
        let error = wait(&path, Then::StayOff, limits(60_000, 1_000), &mut |_| {}).await;
        let text = error.unwrap_err().to_string();
        assert!(
            text.contains("for 1 s nobody could be asked") && text.contains("no leader"),
            "{text}"
        );
        let nowhere = Path::new("/nonexistent/agent.sock");
        let error = wait(nowhere, Then::StayOff, limits(60_000, 1_000), &mut |_| {}).await;
        assert!(error.unwrap_err().to_string().contains("the agent cannot be asked"));
    }
}
