//! Where the leader leaves what surviving agents are to ask other nodes' fence devices, and gets their answers.
//!
//! A task is in the list of its helper until it is answered or nobody waits for it any more; an agent that finds it gone
//! kills what runs of it, so that an "off" that was given up does not reach a host that has come back.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use model::id::NodeId;
use model::node::FenceDevice;
use tokio::sync::{oneshot, watch};
use uuid::Uuid;

/// What is asked of a fence device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FenceAsk {
    /// Switch off, by levels, and say off afterwards.
    Off,
    /// Switch on, and say on afterwards.
    On,
    /// Say what is.
    Status,
}

/// One task of one agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FenceTask {
    /// By which its answer is known.
    pub id: Uuid,
    /// Whose devices they are, for the agent's log.
    pub node: String,
    /// What is asked.
    pub ask: FenceAsk,
    /// Of which devices.
    pub devices: Vec<FenceDevice>,
}

/// What came of it: the device's word, or why there is none.
pub type FenceAnswer = Result<String, String>;

type Tasks = BTreeMap<NodeId, Vec<FenceTask>>;

/// Whom a call was given to, and who waits for its answer.
type Waiting = (NodeId, oneshot::Sender<FenceAnswer>);

/// Tasks and those who wait for them. Cheap to clone.
#[derive(Clone)]
pub struct FenceDesk {
    tasks: watch::Sender<Tasks>,
    waiting: Arc<Mutex<BTreeMap<Uuid, Waiting>>>,
}

impl Default for FenceDesk {
    fn default() -> Self {
        Self { tasks: watch::Sender::new(Tasks::new()), waiting: Arc::default() }
    }
}

impl FenceDesk {
    /// Has a node's agent ask the devices, and waits for its word for as long as the caller does.
    pub async fn ask(
        &self,
        helper: NodeId,
        node: &str,
        ask: FenceAsk,
        devices: Vec<FenceDevice>,
    ) -> FenceAnswer {
        let task = FenceTask { id: Uuid::new_v4(), node: node.to_owned(), ask, devices };
        let id = task.id;
        let (sender, answer) = oneshot::channel();
        self.waiting().insert(id, (helper, sender));
        self.tasks.send_modify(|tasks| tasks.entry(helper).or_default().push(task));
        let _given_up = Withdrawn { desk: self, helper, id };
        answer.await.unwrap_or_else(|_| Err("nobody waited for its answer".into()))
    }

    /// An agent's word. One that nobody waits for is forgotten.
    pub fn done(&self, helper: NodeId, id: Uuid, answer: FenceAnswer) {
        let mut waiting = self.waiting();
        if waiting.get(&id).is_some_and(|(asked, _)| *asked == helper)
            && let Some((_, sender)) = waiting.remove(&id)
        {
            // Whoever asked may have gone in this moment.
            let _ = sender.send(answer);
        }
    }

    /// All tasks, by helper.
    pub fn tasks(&self) -> watch::Receiver<Tasks> {
        self.tasks.subscribe()
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeMap<Uuid, (NodeId, oneshot::Sender<FenceAnswer>)>> {
        // Every statement under it leaves it valid.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes the task back when nobody waits for it any more.
struct Withdrawn<'d> {
    desk: &'d FenceDesk,
    helper: NodeId,
    id: Uuid,
}

impl Drop for Withdrawn<'_> {
    fn drop(&mut self) {
        self.desk.waiting().remove(&self.id);
        self.desk.tasks.send_modify(|tasks| {
            if let Some(of_helper) = tasks.get_mut(&self.helper) {
                of_helper.retain(|task| task.id != self.id);
            }
            tasks.retain(|_, of_helper| !of_helper.is_empty());
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELPER: NodeId = NodeId(3);

    #[tokio::test]
    async fn a_task_is_there_until_its_helper_answers_and_nobody_else_can() {
        let desk = FenceDesk::default();
        let mut tasks = desk.tasks();
        let asking = tokio::spawn({
            let desk = desk.clone();
            async move { desk.ask(HELPER, "n1", FenceAsk::Off, Vec::new()).await }
        });
        let task = tasks.wait_for(|tasks| !tasks.is_empty()).await.unwrap()[&HELPER][0].clone();
        desk.done(NodeId(4), task.id, Ok("another one".into()));
        desk.done(HELPER, Uuid::nil(), Ok("another task".into()));
        desk.done(HELPER, task.id, Ok("fence_a".into()));
        assert_eq!(asking.await.unwrap(), Ok("fence_a".into()));
        assert!(tasks.borrow().is_empty());
    }

    #[tokio::test]
    async fn a_task_that_is_given_up_is_taken_back() {
        let desk = FenceDesk::default();
        let mut tasks = desk.tasks();
        let asking = tokio::spawn({
            let desk = desk.clone();
            async move { desk.ask(HELPER, "n1", FenceAsk::Off, Vec::new()).await }
        });
        tasks.wait_for(|tasks| !tasks.is_empty()).await.unwrap();
        asking.abort();
        tasks.wait_for(|tasks| tasks.is_empty()).await.unwrap();
    }
}
