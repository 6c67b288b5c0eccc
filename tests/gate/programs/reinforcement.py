"""Reinforcement learning: a stream that plays with the loop's own model, and a buffer that the loop fills."""

import json
from collections import deque

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

STEPS, BATCH = 60, 16


class Track:
    """Walk to the right, and be paid at the end."""

    def __init__(self):
        self.generator, self.place = np.random.RandomState(1), 0.0

    def reset(self):
        self.place = float(self.generator.rand())
        return np.array([self.place, 1.0], dtype=np.float32)

    def step(self, action):
        self.place += 0.1 if action else -0.05
        done = self.place > 2 or self.place < -1
        return np.array([self.place, 1.0], dtype=np.float32), float(self.place > 2), done


class ReplayBuffer(Dataset):
    """What was played lately; the loop goes on filling it while an epoch is read."""

    def __init__(self, capacity):
        self.items = deque(maxlen=capacity)

    def append(self, *experience):
        self.items.append(experience)

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        state, action, reward, done, following = self.items[index]
        return state, action, np.float32(reward), np.float32(done), following


class RolloutStream(IterableDataset):
    """Plays with the current model, and hands over random parts of the buffer."""

    def __init__(self, agent, count):
        self.agent, self.count = agent, count
        self.generator = np.random.RandomState(2)

    def __iter__(self):
        for _ in range(self.count):
            self.agent.play()
            index = int(self.generator.randint(len(self.agent.buffer)))
            yield self.agent.buffer[index]


class Agent:
    def __init__(self, model, env, buffer):
        self.model, self.env, self.buffer = model, env, buffer
        self.state, self.generator = env.reset(), np.random.RandomState(3)

    @torch.no_grad()
    def play(self):
        greedy = self.model(torch.from_numpy(self.state)).argmax().item()
        action = self.generator.randint(2) if self.generator.rand() < 0.2 else greedy
        following, reward, done = self.env.step(action)
        self.buffer.append(self.state, action, reward, done, following)
        self.state = self.env.reset() if done else following


def learn(model, optimizer, batch):
    state, action, reward, done, following = batch
    value = model(state).gather(1, action[:, None]).squeeze(1)
    with torch.no_grad():
        wanted = reward + 0.9 * model(following).max(1).values * (1 - done)
    loss = nn.functional.mse_loss(value, wanted)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def main():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    buffer = ReplayBuffer(200)
    agent = Agent(model, Track(), buffer)
    for _ in range(100):
        agent.play()
    rollout_loader = DataLoader(RolloutStream(agent, STEPS * BATCH), batch_size=BATCH)
    losses = [learn(model, optimizer, batch) for batch in rollout_loader]
    print(f"rollout loss={sum(losses) / len(losses):.6f}", flush=True)
    replay_loader = DataLoader(buffer, batch_size=BATCH, shuffle=True)
    for epoch in range(3):
        losses = []
        for batch in replay_loader:
            losses.append(learn(model, optimizer, batch))
            for _ in range(4):
                agent.play()
        print(f"epoch {epoch} loss={sum(losses) / len(losses):.6f} place={agent.env.place:.3f}", flush=True)
        torch.save(model.state_dict(), "policy.pt")
        with open("history.json", "w") as file:
            json.dump({"epoch": epoch, "steps": len(losses)}, file)


if __name__ == "__main__":
    main()
