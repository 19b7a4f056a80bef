//! Questions to agents that need no log: asked by an operator, passed on by the leader, answered or forgotten.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use model::id::NodeId;
use proto::v1::{self, Question};
use tokio::sync::{mpsc, oneshot};
use tonic::Status;
use uuid::Uuid;

/// libvirt answers in milliseconds, or it hangs; the agent's own limit is below this.
const PATIENCE: Duration = Duration::from_secs(6);
/// Questions that wait in one agent's pipe.
const PIPE: usize = 64;

type Stream = mpsc::Sender<Result<Question, Status>>;

/// The agents that can be asked, and what waits for their answers. Cheap to clone.
#[derive(Clone, Default)]
pub struct Questions {
    book: Arc<Mutex<Book>>,
}

#[derive(Default)]
struct Book {
    last: u64,
    agents: BTreeMap<NodeId, Stream>,
    waiting: BTreeMap<u64, (NodeId, oneshot::Sender<Result<String, String>>)>,
}

impl Questions {
    fn with<T>(&self, change: impl FnOnce(&mut Book) -> T) -> T {
        // Held for a few instructions only; what it guards is valid after every statement.
        change(&mut self.book.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// From now on this node's agent takes questions; an earlier stream of it ends.
    pub fn open(&self, node: NodeId) -> mpsc::Receiver<Result<Question, Status>> {
        let (sender, receiver) = mpsc::channel(PIPE);
        self.with(|book| book.agents.insert(node, sender));
        receiver
    }

    /// An agent's answer; one that nobody waits for any more is dropped.
    pub fn answer(&self, node: NodeId, answer: v1::AnswerRequest) {
        let waiting = self.with(|book| match book.waiting.get(&answer.question) {
            Some((asked, _)) if *asked == node => book.waiting.remove(&answer.question),
            _ => None,
        });
        if let Some((_, waiting)) = waiting {
            let word = match answer.error {
                Some(error) => Err(error),
                None => Ok(answer.xml),
            };
            // Whoever asked may have gone.
            let _ = waiting.send(word);
        }
    }

    /// The definition of a domain, in its agent's words.
    pub async fn definition(&self, node: NodeId, uuid: Uuid) -> Result<String, Status> {
        let (sender, receiver) = oneshot::channel();
        let asked = self.with(|book| {
            let stream = book.agents.get(&node).cloned()?;
            book.last += 1;
            book.waiting.insert(book.last, (node, sender));
            Some((book.last, stream))
        });
        let Some((id, stream)) = asked else {
            return Err(Status::unavailable("its agent takes no questions here yet"));
        };
        let question = Question { id, uuid: uuid.to_string() };
        let asked = async {
            stream.send(Ok(question)).await.map_err(|_| ())?;
            receiver.await.map_err(|_| ())
        };
        let answer = tokio::time::timeout(PATIENCE, asked).await;
        self.with(|book| book.waiting.remove(&id));
        match answer {
            Ok(Ok(Ok(xml))) => Ok(xml),
            Ok(Ok(Err(error))) => Err(Status::failed_precondition(error)),
            Ok(Err(())) => Err(Status::unavailable("its agent left while it was asked")),
            Err(_) => Err(Status::deadline_exceeded("its agent did not answer in time")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId(3);

    #[tokio::test]
    async fn an_agent_is_asked_and_only_its_own_answer_counts() {
        let questions = Questions::default();
        let uuid = Uuid::from_u128(9);
        let error = questions.definition(NODE, uuid).await.unwrap_err();
        assert_eq!(error.code(), tonic::Code::Unavailable);
        let mut asked = questions.open(NODE);
        let agent = questions.clone();
        let answering = tokio::spawn(async move {
            let question = asked.recv().await.unwrap().unwrap();
            assert_eq!(question.uuid, uuid.to_string());
            let answer = |xml: &str, error: Option<&str>| v1::AnswerRequest {
                node_id: 0,
                session: 0,
                question: question.id,
                xml: xml.into(),
                error: error.map(Into::into),
            };
            agent.answer(NodeId(4), answer("forged", None));
            agent.answer(NODE, answer("<domain/>", None));
            let question = asked.recv().await.unwrap().unwrap();
            agent.answer(
                NODE,
                v1::AnswerRequest {
                    question: question.id,
                    error: Some("no such domain".into()),
                    ..v1::AnswerRequest::default()
                },
            );
        });
        assert_eq!(questions.definition(NODE, uuid).await.unwrap(), "<domain/>");
        let error = questions.definition(NODE, uuid).await.unwrap_err();
        assert_eq!(error.message(), "no such domain");
        answering.await.unwrap();
        assert!(questions.with(|book| book.waiting.is_empty()));
    }
}
