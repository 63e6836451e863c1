#include "driver/qemu/vm.h"

#include <fmt/format.h>

#include "base/log.h"
#include "edge/tls.h"

namespace virga {
namespace {

constexpr Duration kStartDeadline = milliseconds(19'500);
constexpr Duration kQmpDeadline = seconds(15);
constexpr Duration kQuitTime = seconds(1);

}  // namespace

QemuVm::QemuVm(VmContext& context, VmFolder folder, const VmLaunch& launch, Handlers handlers)
    : context_(context),
      launch_(launch),
      handlers_(std::move(handlers)),
      process_(context, folder,
               {[this](const QmpEvent& seen) { event(seen); },
                [this](const Error& why) { qmp_lost(why); },
                [this](ProcessExit exit) { exited(exit); }}),
      guest_(context.loop, folder),
      start_deadline_(context.loop),
      stop_timer_(context.loop),
      left_send_cut_(context.loop),
      resume_(context.loop),
      meter_(folder.meter()) {}

void QemuVm::start(bool incoming, std::uint32_t user, Callback<void> done) {
  incoming_ = incoming;
  if (incoming && context_.options.encrypt_migrations) migration_key_ = random_secret();
  start_waiters_.push_back(std::move(done));
  start_deadline_.set_after(kStartDeadline, [this] {
    fail_start(make_error(Errc::timeout, fmt::format("start {}: not running after {} ms",
                                                     launch_.vm.value, to_ms(kStartDeadline))));
  });
  open_files_as(user);
}

void QemuVm::open_files_as(std::uint32_t user) {
  const QemuOptions& options = context_.options;
  const FileRequest request{launch_,    options.shared_directory, options.image_program,
                            !incoming_, options.host_devices,     &context_.image_checks};
  context_.worker.run<std::shared_ptr<OpenFiles>>(
      [request]() -> Result<std::shared_ptr<OpenFiles>> {
        auto files = open_files(request);
        if (!files) return files.error();
        return std::make_shared<OpenFiles>(std::move(*files));
      },
      [weak = weak_from_this(), user](Result<std::shared_ptr<OpenFiles>> files) {
        if (const auto self = weak.lock()) self->files_opened(std::move(files), user);
      });
}

void QemuVm::check_image(std::shared_ptr<OpenFiles> files, std::uint32_t user) {
  context_.reader.run<void>(
      [files, &checks = context_.image_checks, image = *launch_.image] {
        std::vector<int> numbers;
        for (const Descriptor& file : files->unchecked) numbers.push_back(file.get());
        return checks.check(numbers, image);
      },
      [weak = weak_from_this(), user](Result<void> sound) {
        const auto self = weak.lock();
        if (self == nullptr || self->stage_ != Stage::preparing) return;
        if (sound) return self->open_files_as(user);
        self->fail_start(wrap_error("start " + self->launch_.vm.value, sound.error()));
      });
}

void QemuVm::qmp_lost(const Error& why) {
  log_line(LogLevel::info, "qemu", launch_.vm.value + ": " + why.text(), launch_.correlation);
  // Its connection to the other host is cut as well: QEMU gives up and the guest stays here.
  if (outgoing_ != nullptr) outgoing_->abandon(why);
  if (mirroring_ != nullptr) mirroring_->abandon(why);
  mirroring_.reset();
}

void QemuVm::join_start(Callback<void> done) {
  if (stage_ == Stage::preparing || stage_ == Stage::launching) {
    start_waiters_.push_back(std::move(done));
    return;
  }
  context_.loop.post([done = std::move(done)] { done({}); });
}

void QemuVm::files_opened(Result<std::shared_ptr<OpenFiles>> files, std::uint32_t user) {
  if (stage_ != Stage::preparing) return;
  if (stopping_)
    return fail_start(make_error(Errc::cancelled, "start " + launch_.vm.value + ": stopped"));
  if (!files) return fail_start(wrap_error("start " + launch_.vm.value, files.error()));
  if (!(*files)->unchecked.empty()) return check_image(std::move(*files), user);
  process_.open_ports(launch_, [this, files = std::move(*files), user](const Result<void>& opened) {
    ports_opened(opened, *files, user);
  });
}

void QemuVm::ports_opened(const Result<void>& ports, const OpenFiles& files, std::uint32_t user) {
  if (stage_ != Stage::preparing) return;
  if (stopping_)
    return fail_start(make_error(Errc::cancelled, "start " + launch_.vm.value + ": stopped"));
  if (!ports) return fail_start(wrap_error("start " + launch_.vm.value, ports.error()));
  stage_ = Stage::launching;
  const auto launched = process_.launch(files, incoming_, user);
  meter_.begin(launch_.epoch, process_.taps(), context_.loop.now());
  if (!launched) return fail_start(wrap_error("start " + launch_.vm.value, launched.error()));
  process_.connect_qmp(kQmpDeadline,
                       [this](Result<void> opened) { qmp_opened(std::move(opened)); });
}

void QemuVm::qmp_opened(Result<void> opened) {
  // A QEMU that ends before it greets is reported by its exit, which knows why.
  if (stage_ != Stage::launching) return;
  if (!opened && opened.error().code == Errc::unavailable) return;
  if (!opened) return fail_start(wrap_error("start " + launch_.vm.value, opened.error()));
  if (incoming_) return listen();
  run_first_time();
}

void QemuVm::run_first_time() {
  if (auto stored = handlers_.before_run(); !stored) {
    return fail_start(wrap_error("start " + launch_.vm.value, stored.error()));
  }
  qmp::resume(*process_.qmp(), [this](Result<void> running) {
    if (stage_ != Stage::launching) return;
    if (!running) return fail_start(wrap_error("start " + launch_.vm.value, running.error()));
    stage_ = Stage::ready;
    power_ = VmPower::running;
    // Switches may know its card from a host where it ran before; not every guest says where it is.
    if (process_.qmp() != nullptr) qmp::announce_self(*process_.qmp(), [](Result<void>) {});
    learn_disks();
    changed("started");
    finish_start({});
  });
}

Result<void> QemuVm::change_limits(const VmLaunch& launch) {
  if (stage_ != Stage::ready) {
    return make_error(Errc::conflict, launch_.vm.value + " is being started or is ending");
  }
  auto changed = process_.change_limits(launch);
  if (!changed) return wrap_error("change the limits of " + launch_.vm.value, changed.error());
  take_limits(launch, launch_);
  return {};
}

void QemuVm::listen() {
  secret_ = random_secret();
  auto listener = MigrationListener::listen(
      context_.loop, context_.options.migration_address, secret_,
      [this](Descriptor connection) { peer_connected(std::move(connection)); });
  if (!listener) return fail_start(listener.error());
  listener_ = std::move(*listener);
  port_ = listener_->port();
  qmp::prepare_migration(*process_.qmp(), {}, [this](Result<void> prepared) {
    if (stage_ != Stage::launching) return;
    if (!prepared) return fail_start(prepared.error());
    stage_ = Stage::ready;
    power_ = VmPower::paused;
    changed("waits for a live migration");
    finish_start({});
  });
}

MigrationEndpoint QemuVm::endpoint() const {
  return {context_.options.migration_address, port_, secret_, migration_key_};
}

void QemuVm::finish_start(const Result<void>& outcome) {
  start_deadline_.cancel();
  for (auto& done : std::exchange(start_waiters_, {})) done(outcome);
}

/// Ends what has come into being; the waiters hear of it when nothing is left.
void QemuVm::fail_start(Error why) {
  if (stage_ != Stage::preparing && stage_ != Stage::launching) return;
  if (start_error_ == nullptr) start_error_ = std::make_unique<Error>(std::move(why));
  start_deadline_.cancel();
  if (process_.exists()) return process_.kill();
  end(start_error_->text());
}

Error QemuVm::start_error(const std::string& words) const {
  Errc code = Errc::internal;
  if (words.find("Failed to get \"write\" lock") != std::string::npos ||
      words.find("Failed to get shared \"write\" lock") != std::string::npos) {
    return make_error(
        Errc::conflict,
        fmt::format("start {}: a disk is in use by another copy of this VM, seen by the "
                    "lock on its file: {}",
                    launch_.vm.value, words));
  }
  if (words.find("Cannot allocate memory") != std::string::npos) code = Errc::exhausted;
  if (words.find("Image is not in qcow2 format") != std::string::npos ||
      words.find("Could not open backing file") != std::string::npos ||
      words.find("qcow2: ") != std::string::npos) {
    code = Errc::invalid;
  }
  return make_error(code, fmt::format("start {}: QEMU ended: {}", launch_.vm.value, words));
}

std::string QemuVm::exit_reason(ProcessExit exit) const {
  if (!shutdown_reason_.empty()) return shutdown_reason_;
  const std::string words = process_.log_tail();
  if (exit.signal != 0) return fmt::format("QEMU was ended by signal {}", exit.signal);
  if (exit.code > 0) return fmt::format("QEMU ended with code {}: {}", exit.code, words);
  return "QEMU has ended";
}

void QemuVm::exited(ProcessExit exit) {
  const std::string why = exit_reason(exit);
  if ((stage_ == Stage::launching) && start_error_ == nullptr) {
    const std::string words = process_.log_tail();
    start_error_ = std::make_unique<Error>(start_error(words.empty() ? why : words));
  }
  if (outgoing_ != nullptr) outgoing_->abandon(make_error(Errc::unavailable, why));
  if (mirroring_ != nullptr) mirroring_->abandon(make_error(Errc::unavailable, why));
  end(why);
}

void QemuVm::end(const std::string& why) {
  const auto self = shared_from_this();
  stop_timer_.cancel();
  left_send_cut_.cancel();
  listener_.reset();
  const Error error = start_error_ != nullptr ? *start_error_ : make_error(Errc::unavailable, why);
  sample_usage();
  if (VmUsage links; meter_.read_links(links), links.net_sent_bytes >= traffic_.net_sent_bytes) {
    traffic_.net_sent_bytes = links.net_sent_bytes;
    traffic_.net_received_bytes = links.net_received_bytes;
  }
  stage_ = Stage::ended;
  power_ = VmPower::stopped;
  changed(stopping_ ? "stopped" : why);
  if (handlers_.ended) handlers_.ended();
  finish_start(error);
  resume_.finish(wrap_error("resume " + launch_.vm.value, error));
  for (auto& done : std::exchange(stop_waiters_, {})) done({});
  // Last: taking cards and groups back waits for the kernel, and nobody needs to wait with it.
  process_.release();
}

void QemuVm::stop(const StopOptions& options, Callback<void> done) {
  stop_waiters_.push_back(std::move(done));
  const bool ask = !options.force && power_ == VmPower::running && process_.qmp() != nullptr &&
                   options.deadline_ms > 2 * kQuitTime;
  stopping_ = true;
  if (stage_ == Stage::preparing) return;  // files_opened() and ports_opened() notice
  if (stage_ == Stage::launching) {
    return fail_start(make_error(Errc::cancelled, "start " + launch_.vm.value + ": stopped"));
  }
  if (!ask) return process_.kill();
  if (power_ != VmPower::stopping) {
    power_ = VmPower::stopping;
    qmp::power_down(*process_.qmp(), [](Result<void>) {});
    stop_timer_.set_after(options.deadline_ms - kQuitTime, [this] { escalate_stop(); });
    changed("asked to power off");
  }
}

/// The guest did not listen: QEMU itself may still write out what it holds of the disks.
void QemuVm::escalate_stop() {
  if (process_.qmp() != nullptr) qmp::quit(*process_.qmp(), [](Result<void>) {});
  stop_timer_.set_after(kQuitTime / 2, [this] { process_.kill(); });
}

Result<std::string> QemuVm::console(std::size_t bytes_max) const {
  return console_tail(process_.folder().console(), bytes_max);
}

}  // namespace virga
