// opo bench scale: one step at 1, 2, 4, ... ranks, each with the same work, and what the model of
// train/scale.h says of its communication.
#include <algorithm>
#include <cstdio>

#include "app/bench.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/pack.h"
#include "base/parallel.h"
#include "comm/comm.h"
#include "train/exchange.h"
#include "train/learner.h"
#include "train/optimizer.h"
#include "train/scale.h"

namespace opo {
namespace {

using nlohmann::ordered_json;

constexpr int kPingTag = 1;
constexpr idx kBlock = idx{32} << 20;

// Latency and bandwidth between ranks 0 and 1, both sending at the same time; the others wait.
Network MeasureNetwork(Comm& comm) {
  Network net;
  if (comm.alone()) return net;
  if (comm.rank() < 2) {
    const int other = 1 - comm.rank();
    const auto exchange = [&](char* out, char* in, idx bytes) {
      comm.Recv(other, kPingTag, in, bytes);
      comm.Send(other, kPingTag, out, bytes);
      comm.Wait();
    };
    std::vector<char> out(static_cast<std::size_t>(kBlock)), in(static_cast<std::size_t>(kBlock));
    // The median: a rank that comes late finds its message there already.
    const auto median_of = [&](std::size_t times, idx bytes) {
      std::vector<double> seconds(times);
      for (double& s : seconds) {
        const double start = Seconds();
        exchange(out.data(), in.data(), bytes);
        s = Seconds() - start;
      }
      std::nth_element(seconds.begin(), seconds.begin() + static_cast<long>(times / 2),
                       seconds.end());
      return seconds[times / 2];
    };
    median_of(3, kBlock);  // touches the memory
    net.latency_s = median_of(201, 8);
    net.bytes_per_s = static_cast<double>(kBlock) / median_of(9, kBlock);
  }
  comm.Broadcast(std::as_writable_bytes(std::span(&net, 1)));
  return net;
}

// Seconds of the parts of a step at one rank, and what it sent.
struct Parts {
  double step = 0, generate = 0, rollouts = 0, learn = 0, reduce_wait = 0, update = 0, share = 0;
  double pack = 0;
  idx bytes = 0;
};

template <class T>
class ScaleBench {
 public:
  ScaleBench(const BenchArguments& args, Comm& comm)
      : args_(args),
        world_(comm),
        weights_(LoadWeights(args.model.model)),
        tokenizer_(Tokenizer::Load(TokenizerPath(args.model.model))),
        packed_(weights_, true),
        model_(packed_),
        learner_(model_, weights_.layout, LearnerConfig{}),
        own_(BenchGroups(PromptRenderer(tokenizer_), args.prompts, args.samples)) {
    for (RolloutGroup& group : own_) group.key += static_cast<std::uint64_t>(comm.rank()) << 32;
  }

  const ModelConfig& config() const { return weights_.config; }

  // The slowest rank's parts in the fastest of the repeats; of the first `ranks`.
  Parts Measure(int ranks) {
    Parts best;
    best.step = 1e30;
    if (world_.rank() < ranks) {
      Comm comm = world_.First(ranks);
      AdamW optimizer(weights_.layout, OptimizerConfig{}, comm);
      GradientSum gradient(comm, weights_.layout);
      for (idx i = 0; i <= args_.repeats; ++i) {  // the first also pays for its memory
        const Parts parts = Step(comm, optimizer, gradient);
        if (i > 0 && parts.step < best.step) best = parts;
      }
    }
    world_.Max(0);  // the others wait here
    return best;
  }

 private:
  Parts Step(Comm& comm, AdamW& optimizer, GradientSum& gradient) {
    Parts p;
    comm.Max(0);
    const Comm::Traffic before = comm.traffic();
    const double start = Seconds();
    Tape<T> tape;
    tape.max_bytes = idx{1} << 50;
    SamplingConfig sampling;
    sampling.max_new_tokens = args_.max_new_tokens;
    sampling.ignore_eos = true;
    // As a trainer has them: all ranks' groups, in turn.
    std::vector<RolloutGroup> groups;
    std::vector<int> owner;
    for (const RolloutGroup& group : own_) {
      for (int r = 0; r < comm.size(); ++r) {
        groups.push_back(group);
        owner.push_back(r);
      }
    }
    double generated = start;
    ShareGroups(comm, groups, owner, [&](std::span<RolloutGroup> own) {
      Generate(model_, tokenizer_, own, sampling, {}, &tape);
      generated = Seconds();
    });
    const double shared = Seconds();
    std::vector<LearnGroup> learn;
    const double tokens = static_cast<double>(args_.prompts * args_.samples * args_.max_new_tokens);
    for (std::size_t g = 0; g < groups.size(); ++g) {
      if (owner[g] != comm.rank()) continue;
      for (std::size_t s = 0; s < groups[g].rollouts.size(); ++s) {
        groups[g].rollouts[s].advantage = s % 2 == 0 ? 0.5 : -0.5;
      }
      learn.push_back({&groups[g], std::vector<double>(groups[g].rollouts.size(), 1 / tokens),
                       groups[g].tape_group});
    }
    const double waited = comm.traffic().wait_s;
    const std::vector<idx> work(static_cast<std::size_t>(comm.size()), 1);
    gradient.Run(DealShards(work, comm.size()),
                 [&](idx, float* grad, const GradientSum::LayerDone& layer_done) {
                   learner_.Accumulate(learn, OnPolicyLoss, grad, &tape, layer_done);
                 });
    const double learned = Seconds();
    p.reduce_wait = comm.traffic().wait_s - waited;
    const double norm = GradientNorm(gradient.sum(), comm);
    optimizer.Step(weights_.slab, gradient.sum(), 1e-6, norm > 1 ? 1 / norm : 1.0);
    const double updated = Seconds();
    gradient.Share(weights_.slab);
    const double sent = Seconds();
    packed_.Update(weights_);
    comm.Max(0);
    p.step = Seconds() - start;
    p.generate = generated - start;
    p.rollouts = shared - generated;
    p.learn = learned - shared - p.reduce_wait;
    p.update = updated - learned;
    p.share = sent - updated;
    p.pack = p.step - (sent - start);
    p.bytes = comm.traffic().bytes - before.bytes;
    return p;
  }

  const BenchArguments& args_;
  Comm& world_;
  Weights weights_;
  Tokenizer tokenizer_;
  PackedWeights<T> packed_;
  Transformer<T> model_;
  Learner<T> learner_;
  std::vector<RolloutGroup> own_;
};

}  // namespace

template <class T>
void BenchScale(const BenchArguments& args) {
  Comm& comm = Comm::World();
  ScaleBench<T> bench(args, comm);
  const Network net = MeasureNetwork(comm);
  const RankMessages messages(bench.config(), args.prompts * args.samples * args.max_new_tokens);
  ordered_json out = BenchHeader();
  out["latency_s"] = net.latency_s;
  out["bytes_per_s"] = net.bytes_per_s;
  out["slab_bytes"] = messages.slab;
  out["ranks"] = ordered_json::array();
  if (comm.root() && !args.json) {
    fmt::print(
        "{} prompts x {} samples x {} tokens a rank, {} threads each; between two ranks: {:.1f} "
        "us, {:.2f} GB/s\n\n",
        args.prompts, args.samples, args.max_new_tokens, NumThreads(), net.latency_s * 1e6,
        net.bytes_per_s / 1e9);
    fmt::print("{:>5} {:>8} {:>8} {:>8} {:>9} {:>9} {:>8} {:>8} {:>8} {:>10} {:>11} {:>11}\n",
               "ranks", "step s", "generate", "learn", "rollouts", "gradient", "update", "weights",
               "MB sent", "comm s", "predicted s", "efficiency");
  }
  double alone = 0;
  for (int ranks = 1; ranks <= comm.size(); ranks *= 2) {
    const Parts p = bench.Measure(ranks);
    if (ranks == 1) alone = p.step;
    // Nothing tells how long the backward pass goes on after its first layer: a half of learning.
    const RankCosts predicted = PlanRankCosts(messages, ranks, net, p.learn / 2);
    const double communication = ranks == 1 ? 0 : p.rollouts + p.reduce_wait + p.share;
    out["ranks"].push_back({{"ranks", ranks},
                            {"step_s", p.step},
                            {"generate_s", p.generate},
                            {"learn_s", p.learn},
                            {"rollouts_s", p.rollouts},
                            {"reduce_wait_s", p.reduce_wait},
                            {"update_s", p.update},
                            {"share_s", p.share},
                            {"pack_s", p.pack},
                            {"bytes", p.bytes},
                            {"communication_s", communication},
                            {"predicted_s", predicted.total()},
                            {"efficiency", alone / p.step}});
    if (!comm.root() || args.json) continue;
    fmt::print(
        "{:>5} {:>8.2f} {:>8.2f} {:>8.2f} {:>9.3f} {:>9.3f} {:>8.3f} {:>8.3f} {:>8} {:>10.3f} "
        "{:>11.3f} {:>10.0f}%\n",
        ranks, p.step, p.generate, p.learn, p.rollouts, p.reduce_wait, p.update, p.share,
        p.bytes >> 20, communication, predicted.total(), 100 * alone / p.step);
    std::fflush(stdout);
  }
  if (comm.root() && args.json) PrintJsonLine(out);
}

template void BenchScale<float>(const BenchArguments&);
template void BenchScale<bf16>(const BenchArguments&);

}  // namespace opo
