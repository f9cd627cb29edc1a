// A worker in JavaScript: wsraw run --workers 'node examples/workers/javascript/worker.mjs:2'
// The class speaks docs/worker-protocol.md; others may import it. Handlers may be async, one at a time.
import { realpathSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { decode, encode } from '@msgpack/msgpack'
import { Dealer } from 'zeromq'

const SEND_AFTER = 1 // ms; an ack that waits behind a slow handler makes us look stuck (rule 3)
const SILENCE = 1000 // ms
const LEAVE_WITHIN = 4000 // ms that the gateway has to drain us after a SIGTERM
const END_WITHIN = 7000 // ms; if the gateway is gone too, a send waits for ever (rule 19)
const TCP = { heartbeatInterval: 2000, heartbeatTimeout: 6000, connectTimeout: 5000 } // ms
const range = (first, last) => Array.from({ length: last - first + 1 }, (_, n) => first + n)

class Connection {
  state // any MessagePack value; assign a new one, and it moves along with the connection
  constructor (id, worker) { Object.assign(this, { id, worker, inf: {}, about: {} }) }
  send (data, type = 'text', final = true) {
    this.worker.command('send', this.id, data, type === 'raw' ? 'binary' : type, final)
  }
}

export class Worker {
  #connections = new Map()
  #session = 0
  #ids = [] // for `open`
  #out = [] // records for the next batch
  #sent = Promise.resolve() // of the last batch: zeromq takes one after another
  #oldest = 0 // since when the first of them waits
  #event // records of the handler that runs
  #during = 0 // the connection of its event
  #idle = true
  #silent = false
  #leaving = false
  constructor (handlers, { WSRAW_POOL = 'default', WSRAW_TOKEN = '', ...env } = process.env) {
    Object.assign(this, { handlers, endpoint: env.WSRAW_ENDPOINT })
    const key = of => env[`WSRAW_CURVE_${of}KEY`] // for a gateway on another machine
    this.keys = key('SECRET') &&
      { curveServerKey: key('SERVER'), curvePublicKey: key('PUBLIC'), curveSecretKey: key('SECRET') }
    this.about = [WSRAW_POOL, env.WSRAW_INSTANCE ?? crypto.randomUUID(), `node/${process.version}`, WSRAW_TOKEN]
    for (const name of ['TOKEN', 'CURVE_SECRETKEY']) delete process.env[`WSRAW_${name}`] // ours alone
  }

  async run () {
    this.socket = new Dealer({
      immediate: true, probeRouter: true, linger: 2000, receiveHighWaterMark: 100, sendHighWaterMark: 100,
      maxMessageSize: 64 << 20, ...(this.endpoint.startsWith('tcp:') && TCP), ...this.keys
    })
    const ended = new Promise(resolve => this.socket.events.on('end', resolve))
    this.socket.connect(this.endpoint)
    process.on('SIGINT', () => this.#leave())
    process.on('SIGTERM', () => {
      setTimeout(() => this.#leave(), this.#session ? LEAVE_WITHIN : 0)
      setTimeout(() => process.exit(1), END_WITHIN)
    })
    this.#probe()
    for await (const [message] of this.socket) {
      this.#idle = this.#silent = false
      if (message.length) await this.#receive(decode(message)) // an empty one is a probe
      this.#idle = true
      if (this.#leaving) await this.#leave()
    }
    await ended // all is sent: exit() does not wait for it
    process.exit() // timers of handlers may be left
  }

  async #probe () { // again while nothing comes: ours may wait in libzmq until something follows it
    while (!this.#leaving) {
      this.#silent = true
      await sleep(SILENCE)
      if (this.#silent && !this.#leaving) {
        await (this.#sent = this.#sent.then(() => this.socket.send('')).catch(() => {}))
      }
    }
  }

  async #leave () {
    this.#leaving = true
    if (!this.#idle || this.socket.closed) return // after the batch
    if (this.#session) await this.#send(this.#session, ['bye'])
    this.socket.close()
  }

  async #receive ([number, ...records]) {
    for (const [tag, ...fields] of records) {
      if (tag === 'who') { // from one that does not know us: what we had is over (rule 2)
        [this.#session, this.#ids, this.#out] = [0, [], []]
        await this.#send(0, ['hello', 1, ...this.about, 1000, 1, [...this.#connections.keys()]])
      } else if (tag === 'welcome') {
        [this.#session, this.#ids] = [fields[1], range(fields[3], fields[4])]
      } else if (tag === 'refused') {
        console.error(`error: refused: ${fields[2]}`)
        if (fields[0] === 0) process.exit(4) // batch 0: we are shut out; trying again is no use
      } else if (number === this.#session) {
        if (tag === 'attach') {
          const [id, inf, state, , about = {}] = fields
          const con = this.#get(id)
          if (inf) Object.assign(con, { inf, about }) // nil: what we know already
          con.state = state.length ? decode(state) : undefined
        } else if (tag === 'detach') this.#connections.delete(fields[0])
        else if (tag === 'answer' && fields[0] === 0) this.#ids.push(...range(...fields[1]))
        else if (tag === 'drain') this.#leaving = true
        else if (tag.startsWith('on_')) await this.#handle(tag, ...fields)
      }
    }
    await this.#flush()
  }

  #get (id) {
    return this.#connections.get(id) ?? this.#connections.set(id, new Connection(id, this)).get(id)
  }

  async #handle (tag, seq, id, first, ...rest) {
    if (this.#out.length && performance.now() - this.#oldest > SEND_AFTER) await this.#flush()
    const con = this.#get(id)
    const { state } = con;
    [this.#event, this.#during] = [[], id]
    if (tag === 'on_connect') Object.assign(con, { inf: first, about: rest[2] ?? {} })
    try {
      const what = tag === 'on_message' ? { data: first, type: rest[0], final: rest[1] ?? true } : first
      const handling = tag === 'on_close' ? this.handlers.on_close?.(con, first, ...rest)
        : this.handlers[tag]?.(what, con)
      if (handling) await handling // only then: it costs
      if (con.state !== state) this.command('state', id, encode(con.state))
    } catch (error) {
      console.error(`error: ${tag} raised`, error)
      con.state = state
      const isAsked = tag === 'on_connect' && rest[0] // only a client that a handler has accepted may come in
      this.#event = [isAsked ? ['reject', id, 500] : ['close', id, 1011]]
    }
    if (tag === 'on_close') this.#connections.delete(id)
    if (!this.#out.length) this.#oldest = performance.now()
    this.#out.push(...this.#event, ['ack', seq, seq]) // together, or not at all (rule 1)
    this.#event = undefined
  }

  async #flush () { if (this.#out.length) await this.#send(this.#session, ...this.#out.splice(0)) }
  #send (...batch) { return (this.#sent = this.#sent.then(() => this.socket.send(encode(batch)))) }
  command (...record) { // with the ack of the event; those of a timer at once, at most once (rule 1)
    if (this.#event) this.#event.push(record)
    else if (this.#session && !this.#leaving) this.#send(this.#session, record)
  }

  open (target, protocol, url = '/') {
    const con = this.#get(this.#ids.pop())
    if (this.#ids.length === 100) this.command('query', 0, 'ids')
    con.about = { target }
    this.command('open', con.id, target, protocol, url, '', '', { during: this.#during })
    return con
  }
}

const handlers = {
  on_connect (inf, con) { if (con.about.target) con.send('hi') },
  on_message ({ data, type, final }, con) {
    if (con.about.target) return // we have opened it; two that answer each other never end
    con.state = (con.state ?? 0) + 1
    const text = Buffer.from(data).toString('latin1')
    const rest = text.slice(text.indexOf(' ') + 1)
    const answer = what => con.send(Buffer.from(what, 'latin1'), type, final)
    if (text.startsWith('upper ')) answer(rest.replace(/[a-z]+/g, word => word.toUpperCase()))
    else if (text === 'count') answer(`${con.state}`)
    else if (text.startsWith('open ')) answer(`opened ${con.worker.open(rest, 'websocket').id}`)
    else if (!/^slow \d+$/.test(text)) con.send(data, type, final)
    else return new Promise(end => setTimeout(end, rest)).then(() => con.send(data, type, final))
  }
}

if (realpathSync(process.argv[1]) === import.meta.filename) await new Worker(handlers).run()
