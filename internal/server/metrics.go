package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/millrace-sync/millrace/internal/httpapi"
	"github.com/millrace-sync/millrace/internal/postgres"
	"github.com/millrace-sync/millrace/internal/source"
	"github.com/millrace-sync/millrace/internal/storage"
)

// metrics serves what the service counts, to Prometheus and nobody else: nothing is
// ever sent. Names that begin with powersync_ are those of the PowerSync Service.
type metrics struct {
	listener net.Listener
	handler  http.Handler
	lag      *lag
}

// measured is what is counted; api returns nil in a process that serves no clients, or
// does not do so yet.
type measured struct {
	api      func() *httpapi.Handler
	activity *activity
	health   vitals
	deployer *deployer
	store    any // which may measure its own size
	storage  string
	source   postgres.Config
	log      *slog.Logger
}

// sizedStore is a store that knows what it takes on the disk.
type sizedStore interface {
	Sizes() (storage.Sizes, error)
}

// newMetrics listens on a port.
func newMetrics(port int, m measured) (*metrics, error) {
	listener, err := net.Listen("tcp", net.JoinHostPort("", strconv.Itoa(port)))
	if err != nil {
		return nil, fmt.Errorf("listen for Prometheus on port %d: %w; set another telemetry.prometheus_port", port, err)
	}
	lag := &lag{source: m.source, activity: m.activity}
	registry := prometheus.NewRegistry()
	registry.MustRegister(
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		m.activity.commitOps, m.activity.commitTime, &gauges{measured: m, lag: lag},
	)
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{
		ErrorLog: slog.NewLogLogger(m.log.Handler(), slog.LevelWarn), MaxRequestsInFlight: 4, Timeout: 30 * time.Second,
	}))
	return &metrics{listener: listener, handler: mux, lag: lag}, nil
}

// Run serves until ctx ends.
func (m *metrics) Run(ctx context.Context) error {
	bounds := httpapi.DefaultBounds()
	web := &http.Server{Handler: m.handler, ReadHeaderTimeout: bounds.Header, IdleTimeout: bounds.Idle, MaxHeaderBytes: bounds.HeaderBytes, WriteTimeout: time.Minute}
	var others sync.WaitGroup
	defer others.Wait()
	stop := context.AfterFunc(ctx, func() { _ = web.Close() })
	defer stop()
	watch, end := context.WithCancel(ctx)
	defer end()
	others.Go(func() { m.lag.Run(watch) })
	if err := web.Serve(m.listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve metrics: %w", err)
	}
	return nil
}

// gauges reads what is counted elsewhere whenever somebody looks.
type gauges struct {
	measured
	lag *lag
}

// Describe implements prometheus.Collector: metrics are not known beforehand.
func (g *gauges) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (g *gauges) Collect(out chan<- prometheus.Metric) {
	send := func(kind prometheus.ValueType, name, help string, value float64, labels ...string) {
		var names, values []string
		for i := 0; i+1 < len(labels); i += 2 {
			names, values = append(names, labels[i]), append(values, labels[i+1])
		}
		out <- prometheus.MustNewConstMetric(prometheus.NewDesc(name, help, names, nil), kind, value, values...)
	}
	counter := func(name, help string, value int64) {
		send(prometheus.CounterValue, name, help, float64(value))
	}
	gauge := func(name, help string, value float64, labels ...string) {
		send(prometheus.GaugeValue, name, help, value, labels...)
	}
	gauge("target_info", "What is measured.", 1, "service", "millrace", "service_version", version(),
		"source_type", "postgresql", "storage_type", g.storage, "instance_id", g.source.Slot)
	if api := g.api(); api != nil {
		c := api.Counters()
		counter("powersync_data_synced_bytes_total", "Bytes of lines sent to clients, before compression.", c.Bytes.Load())
		counter("powersync_data_sent_bytes_total", "Bytes of lines sent to clients, after compression.", c.Packed.Load())
		counter("powersync_operations_synced_total", "Operations sent to clients.", c.Operations.Load())
		gauge("powersync_concurrent_connections", "Streams that are open.", float64(api.Streams()))
	}
	a := g.activity
	counter("powersync_data_replicated_bytes_total", "Bytes of values in the changes replicated.", a.bytes.Load())
	counter("powersync_rows_replicated_total", "Rows replicated: changes, and rows read by backfills.", a.rows.Load())
	counter("powersync_transactions_replicated_total", "Transactions replicated.", a.txns.Load())
	counter("powersync_chunks_replicated_total", "Chunks of tables that backfills have stored.", a.chunks.Load())
	counter("millrace_compactions_total", "Compactions that found something to do.", a.compactions.Load())
	counter("millrace_compacted_operations_total", "Operations that compactions have dropped or superseded.", a.compacted.Load())
	if at := a.last(); !at.IsZero() {
		gauge("millrace_checkpoint_age_seconds", "Time since a checkpoint was last published. It grows while nothing that concerns a stream happens.", time.Since(at).Seconds())
	}
	gauge("millrace_checkpoint_operation_id", "The newest checkpoint's operation id.", float64(a.checkpoint().Op))
	g.lag.collect(gauge)
	gauge("millrace_ready", "1 if the readiness probe says so.", truth(g.health.Status().Ready))
	working, waits, failed := g.deployer.status()
	gauge("millrace_deploying", "1 while a sync config is on its way to be current.", truth(working))
	gauge("millrace_deploy_blocked", "1 if it waits for a table.", truth(len(waits) > 0))
	gauge("millrace_deploy_failed", "1 if the last sync config was refused or given up.", truth(failed != nil))
	for _, t := range g.health.reading() {
		gauge("millrace_backfill_rows", "Rows of a table that have been read, while it is being read.", float64(t.Rows), "table", t.Table)
		if t.OfAbout > 0 {
			gauge("millrace_backfill_expected_rows", "Rows that the table has, by the source's estimate.", float64(t.OfAbout), "table", t.Table)
		}
	}
	s, ok := g.store.(sizedStore)
	if !ok {
		return
	}
	sizes, err := s.Sizes()
	if err != nil && !errors.Is(err, storage.ErrUnavailable) { // of which readiness tells
		g.log.Warn("the storage could not be measured", "error", err)
	}
	if err != nil || sizes.Total == 0 {
		return
	}
	gauge("millrace_storage_bytes", "What the storage takes on the disk, of all processes that share it.", float64(sizes.Total))
	gauge("powersync_operation_storage_size_bytes", "The part that holds operations.", float64(sizes.Operations))
	gauge("powersync_parameter_storage_size_bytes", "The part that holds lookups.", float64(sizes.Lookups))
	gauge("powersync_replication_storage_size_bytes", "The part that holds records of source rows.", float64(sizes.Rows))
}

func truth(is bool) float64 {
	if is {
		return 1
	}
	return 0
}

func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "development"
}

// Bounds of the watching of the source's log.
const (
	lagEvery   = 5 * time.Second
	lagSamples = 720 // an hour; a lag beyond it is shown as that
)

// lag watches how far replication is behind the source. The source's log has no
// clock that could be asked; so its position is noted now and then: the lag is the
// age of the oldest position that has not been reached.
type lag struct {
	source   postgres.Config
	activity *activity

	mu      sync.Mutex
	samples []sample // oldest first, none reached
	slot    *postgres.SlotState
	now     source.LSN
	ok      bool
}

type sample struct {
	at  source.LSN
	was time.Time
}

// Run asks the source now and then, by a connection of its own, until ctx ends. A
// source that does not answer is no failure: replication tells of that.
func (l *lag) Run(ctx context.Context) {
	tick := time.NewTicker(lagEvery)
	defer tick.Stop()
	for {
		_ = asking(ctx, l.source, func(c *conns) error {
			for {
				if err := l.look(ctx, c); err != nil {
					return err
				}
				select {
				case <-tick.C:
				case <-ctx.Done():
					return ctx.Err()
				}
			}
		})
		l.mu.Lock()
		l.ok = false
		l.mu.Unlock()
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (l *lag) look(ctx context.Context, c *conns) error {
	now, err := postgres.CurrentLSN(ctx, c.catalog)
	if err != nil {
		return err
	}
	slot, err := postgres.Slot(ctx, c.catalog, l.source.Slot)
	if err != nil {
		return err
	}
	l.note(now, slot, time.Now())
	return nil
}

// note takes what the source said.
func (l *lag) note(now source.LSN, slot *postgres.SlotState, when time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.now, l.slot, l.ok = now, slot, true
	l.forget()
	if n := len(l.samples); n < lagSamples && (n == 0 || l.samples[n-1].at < now) {
		l.samples = append(l.samples, sample{now, when})
	}
}

// forget drops the samples that have been reached.
func (l *lag) forget() {
	reached := l.reached()
	n := 0
	for n < len(l.samples) && l.samples[n].at <= reached {
		n++
	}
	l.samples = append(l.samples[:0], l.samples[n:]...)
}

// reached is the position up to which replication has come: what the source has been
// told, or what was published.
func (l *lag) reached() source.LSN {
	at := l.activity.checkpoint().LSN
	if l.slot != nil {
		at = max(at, l.slot.Confirmed)
	}
	return at
}

// seconds is the age of the oldest position not reached.
func (l *lag) seconds(now time.Time) float64 {
	l.forget()
	if len(l.samples) == 0 {
		return 0
	}
	return now.Sub(l.samples[0].was).Seconds()
}

func (l *lag) collect(gauge func(name, help string, value float64, labels ...string)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	gauge("powersync_replication_lag_seconds", "Age of the oldest change on the source that may not have been replicated, to within 5 seconds.", l.seconds(time.Now()))
	gauge("millrace_source_reachable", "1 if the source answered when last asked.", truth(l.ok))
	if l.slot == nil {
		return
	}
	gauge("millrace_replication_lag_bytes", "Log that the source has written and the slot has not been told is done with.", float64(lagBytes(l.now, l.slot.Confirmed)))
	gauge("millrace_slot_wal_status", "1 for the slot's wal_status.", 1, "status", l.slot.WALStatus)
	gauge("millrace_slot_active", "1 if somebody streams from the slot.", truth(l.slot.PID != 0))
	if l.slot.SafeWAL >= 0 {
		gauge("millrace_slot_safe_wal_bytes", "Log that may still be written before the slot may be lost.", float64(l.slot.SafeWAL))
	}
	if l.slot.Budget >= 0 {
		gauge("millrace_slot_wal_budget_bytes", "Log that the source keeps for the slot at most (max_slot_wal_keep_size).", float64(l.slot.Budget))
	}
}
